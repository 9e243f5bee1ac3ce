//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use url::Url;

use crate::config::Config;
use crate::{
    backup, commands, config, demo, doctor, listen, migrate, moving, profiles, prune, root_key,
    serve, shipped, verify,
};

/// Delivers webhooks: publish an event once, and every endpoint that subscribed gets it as a signed
/// HTTP request, at least once, on an exact retry schedule, with a record of every attempt.
#[derive(Debug, Parser)]
#[command(
    name = "postrider",
    version,
    about,
    after_help = "\
First steps:
  postrider demo                 see it work: real HTTPS, signatures, retries, a dead endpoint
  postrider serve --dev          start a server that may call this machine, and read its first lines
  postrider listen               start a receiver that prints and verifies what comes in"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server. Needs no configuration: it makes ./postrider-data and prints a root key once
    Serve(ServeArgs),
    /// Show the whole thing working, on a server and receivers of its own
    Demo(DemoArgs),
    /// Run a local receiver that verifies signatures and prints what comes in
    Listen(listen::ListenArgs),
    /// Check the signature of a request that a receiver saved
    Verify(verify::VerifyArgs),
    /// Check a profile file, or show a built-in one
    #[command(subcommand)]
    Profile(profiles::ProfileCommand),
    /// Look for mistakes in a configuration, or print its schema
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Copy the database while the server runs
    Backup(BackupArgs),
    /// Put a backup in the place of the database; the one that is there is kept under another name
    Restore(RestoreArgs),
    /// Look at the clock, open files, disk, master key, names and the way out, and read all that is stored; the server may be
    /// running
    Doctor(DoctorArgs),
    /// Delete what is older than the configuration keeps it, while the server is stopped; or count it
    Prune(PruneArgs),
    /// Copy everything from the data directory into the PostgreSQL database of store.url, while no server runs; what was
    /// broken off goes on where it was
    Import(StoreArgs),
    /// Bring applications, endpoints with their secrets and event types over from a running Svix server
    ImportSvix(commands::ImportSvixArgs),
    /// Copy everything from the database of store.url into the data directory, the other way round
    Export(StoreArgs),
    /// Bring the store to this version while no server runs, as serve does when it starts; or tell what that would do
    Migrate(MigrateArgs),
    /// Make one more root key while the server is stopped, for when the others are lost
    RootKey(StoreArgs),
    /// Print completions for a shell: postrider completions bash > /etc/bash_completion.d/postrider
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a man page of each command
    ManPages {
        /// The directory that they go into
        directory: PathBuf,
    },
    /// Ask a server whether it accepts events; the exit code tells. Without --server the one of the configuration here
    Health(commands::Address),
    /// Call any route of the API: postrider api get /v1/audit
    Api(commands::ApiArgs),
    /// Watch in the terminal what a server does: rates, times, what waits and why
    Top(commands::TopArgs),
    /// Print a link that opens the console once, in a browser, as whoever has the key
    Console(commands::Connection),
    /// Manage applications: the products that send webhooks
    #[command(subcommand)]
    Application(commands::ApplicationCommand),
    /// Manage tenants: the customers of an application
    #[command(subcommand)]
    Tenant(commands::TenantCommand),
    /// Manage endpoints: where a tenant wants its events
    #[command(subcommand)]
    Endpoint(commands::EndpointCommand),
    /// Manage the people who come into the console by name
    #[command(subcommand)]
    User(commands::UserCommand),
    /// Manage API keys
    #[command(subcommand)]
    Key(commands::KeyCommand),
    /// Manage distributions: named sets of events with an endpoint of their own
    #[command(subcommand)]
    Distribution(commands::DistributionCommand),
    /// Declare event types, with schemas and examples
    #[command(subcommand)]
    EventType(commands::EventTypeCommand),
    /// Publish and look at events
    #[command(subcommand)]
    Event(commands::EventCommand),
    /// Look at deliveries with their attempts, and send them again
    #[command(subcommand)]
    Delivery(commands::DeliveryCommand),
    /// Look at replays, and stop them
    #[command(subcommand)]
    Replay(commands::ReplayCommand),
    /// Look at webhooks as they were sent, and send them again
    #[command(subcommand)]
    SendOut(commands::SendOutCommand),
    /// Look at notices of failures
    #[command(subcommand)]
    Notification(commands::NotificationCommand),
    /// See how far deletions are
    #[command(subcommand)]
    Deletion(commands::DeletionCommand),
    /// Show who changed what
    Audit(commands::AuditArgs),
}

#[derive(Debug, Default, Args)]
pub struct ServeArgs {
    /// Configuration file (TOML); POSTRIDER__SECTION__KEY variables override it
    #[arg(long, short, env = "POSTRIDER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1:8080]
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// Directory for the database and the master key [default: ./postrider-data]
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// File that the first root key is written to [default: it is printed]
    #[arg(long, value_name = "FILE")]
    pub root_key_file: Option<PathBuf>,
    /// Make a new store although the directory has remains of an earlier one
    #[arg(long)]
    pub new_store: bool,
    /// For development: lets endpoints be on this machine, over plain HTTP too
    #[arg(long)]
    pub dev: bool,
}

impl ServeArgs {
    /// What a server of this environment would be started with, where nothing is said on its command line.
    pub(crate) fn here() -> Self {
        Self {
            config: std::env::var_os("POSTRIDER_CONFIG").map(PathBuf::from),
            ..Self::default()
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read a configuration as `serve` would, and tell all its mistakes with their lines
    Check(ServeArgs),
    /// Print a JSON Schema of the configuration, with every key and its default: for editors
    Schema,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Keep the server and the receivers running at the end
    #[arg(long)]
    pub stay: bool,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to write; it must not exist
    pub target: PathBuf,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// A file that `postrider backup` made
    pub copy: PathBuf,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Send a request to this URL as a delivery goes out, and compare the clocks; may be given several times
    #[arg(long, value_name = "URL")]
    pub reach: Vec<Url>,
    /// First make the segments anew, by which deliveries and events are found and counted; the server must be stopped
    #[arg(long)]
    pub rebuild: bool,
}

/// Which store a command is about.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The server's configuration file (TOML); POSTRIDER__SECTION__KEY variables override it
    #[arg(long, short, env = "POSTRIDER_CONFIG")]
    pub config: Option<PathBuf>,
    /// The server's data directory [default: store.directory]
    #[arg(long)]
    pub data: Option<PathBuf>,
}

impl StoreArgs {
    /// The configuration that the server has.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        config::load(&ServeArgs {
            config: self.config.clone(),
            data: self.data.clone(),
            ..ServeArgs::default()
        })
    }
}

#[derive(Debug, Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Only tell; the server may be running
    #[arg(long)]
    pub plan: bool,
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Only count what would go; the server may be running
    #[arg(long)]
    pub plan: bool,
    /// Then write the database anew, so that the disk gets back what was freed
    #[arg(long, conflicts_with = "plan")]
    pub vacuum: bool,
}

/// Runs one command to its end.
///
/// # Errors
/// When it did not work; the text says what to do next.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve::run(&args).await,
            Command::Demo(args) => demo::run(args.stay).await,
            Command::Listen(args) => listen::run(args).await,
            Command::Verify(args) => verify::run(&args),
            Command::Profile(command) => profiles::run(&command),
            Command::Config(ConfigCommand::Check(args)) => config::check(&args),
            Command::Config(ConfigCommand::Schema) => {
                crate::output::line(&format!("{:#}", config::schema()));
                Ok(())
            }
            Command::Backup(args) => backup::run(&args),
            Command::Restore(args) => doctor::restore(&args),
            Command::Doctor(args) => doctor::run(&args).await,
            Command::Prune(args) => prune::run(&args).await,
            Command::Import(args) => moving::run_import(&args).await,
            Command::ImportSvix(args) => commands::import_svix(args).await,
            Command::Export(args) => moving::run_export(&args).await,
            Command::Migrate(args) => migrate::run(&args).await,
            Command::RootKey(args) => root_key::run(&args).await,
            Command::Completions { shell } => shipped::completions(shell),
            Command::ManPages { directory } => shipped::man_pages(&directory),
            Command::Health(address) => commands::health(&address).await,
            Command::Api(args) => commands::api(args).await,
            Command::Top(args) => commands::top(args).await,
            Command::Console(connection) => commands::console(&connection).await,
            Command::Application(command) => commands::application(command).await,
            Command::Tenant(command) => commands::tenant(command).await,
            Command::Endpoint(command) => commands::endpoint(command).await,
            Command::User(command) => commands::user(command).await,
            Command::Key(command) => commands::key(command).await,
            Command::Event(command) => commands::event(command).await,
            Command::Delivery(command) => commands::delivery(command).await,
            Command::Distribution(command) => commands::distribution(command).await,
            Command::EventType(command) => commands::event_type(command).await,
            Command::Replay(command) => commands::replay(command).await,
            Command::SendOut(command) => commands::send_out(command).await,
            Command::Notification(command) => commands::notification(command).await,
            Command::Deletion(command) => commands::deletion(command).await,
            Command::Audit(args) => commands::audit(args).await,
        }
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        super::Cli::command().debug_assert();
    }
}
