//! What of this machine and its configuration would keep a server from delivering.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use postrider_core::attempt::{Outcome, Timings};
use postrider_engine::{Exchange, Request, Transport};
use postrider_store_sql::{PostgresOptions, SqlStore};
use postrider_transport::{Resolve as _, SystemResolver};
use url::Url;

use crate::config::Config;
use crate::descriptors::Shares;
use crate::master_key;
use crate::metrics::free_bytes;
use crate::serve::{addresses, transport};

/// With less than this on the disk there is soon no room for events.
const SCARCE_BYTES: u64 = 1024 * 1024 * 1024;
/// Receivers refuse a signature whose time is further from theirs than five minutes; who is off by a part of that drifts.
const CLOCK_OFF: Duration = Duration::from_secs(5);
const CLOCK_WRONG: Duration = Duration::from_secs(60);
/// How long a receiver may take.
const REACH_TIMEOUT: Duration = Duration::from_secs(15);
/// Nobody reads the answer.
const REACH_BYTES: usize = 4 * 1_024;

/// One thing that was looked at.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) of: &'static str,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Well,
    /// It works, and soon may not.
    Warning,
    Bad,
}

impl Verdict {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::Warning => "warning",
            Self::Bad => "BAD",
        }
    }
}

fn check(of: &'static str, verdict: Verdict, detail: impl Into<String>) -> Check {
    let detail = detail.into();
    Check {
        of,
        verdict,
        detail,
    }
}

/// Looks at all of it; `reach` are addresses that deliveries are to arrive at.
pub(super) async fn examine(config: &Config, reach: &[Url]) -> Vec<Check> {
    let directory = &config.store.directory;
    let mut checks = vec![open_files(config)];
    // A door to cells stores nothing, and knows no secrets.
    if config.cells.urls.is_empty() {
        checks.extend([clock(directory), disk(directory), key(config)]);
        checks.extend(database(config).await);
        #[cfg(unix)]
        checks.extend(owners(directory));
    }
    checks.extend(names(config).await);
    if reach.is_empty() {
        return checks;
    }
    match transport(config, addresses(config)) {
        Ok(transport) => {
            for url in reach {
                checks.extend(way_out(&transport, url).await);
            }
        }
        Err(error) => checks.push(check("way out", Verdict::Bad, format!("{error:#}"))),
    }
    checks
}

/// Whether the clock is behind what was written here already.
fn clock(directory: &Path) -> Check {
    let written = directory.join("postrider.db").metadata();
    let written = written.and_then(|file| file.modified());
    let ahead = written.ok().and_then(|written| {
        // An error is the usual case: it was written before now.
        let ahead = written.duration_since(wall_clock());
        ahead.ok().filter(|ahead| *ahead > CLOCK_OFF)
    });
    match ahead {
        None => check(
            "clock",
            Verdict::Well,
            "not behind what the store has; --reach compares it with another machine's",
        ),
        Some(ahead) => check(
            "clock",
            Verdict::Bad,
            format!(
                "{} s behind the last write of the store: set it (NTP), or signatures are refused as too old",
                ahead.as_secs()
            ),
        ),
    }
}

fn open_files(config: &Config) -> Check {
    let shares = Shares::of(config);
    let wanted = (config.server.connections_max, config.limits.in_flight);
    let enough = (shares.connections, shares.in_flight) == wanted;
    let detail = format!(
        "{} connections from callers and {} to receivers at once",
        shares.connections, shares.in_flight
    );
    if enough {
        return check("open files", Verdict::Well, detail);
    }
    let detail = format!(
        "enough for {detail}; the configuration says {} and {}: raise the limit (ulimit -n, LimitNOFILE)",
        wanted.0, wanted.1
    );
    check("open files", Verdict::Warning, detail)
}

fn disk(directory: &Path) -> Check {
    let Some(free) = free_bytes(directory) else {
        let detail = format!("{} cannot be looked at", directory.display());
        return check("disk", Verdict::Warning, detail);
    };
    let mib = free / (1024 * 1024);
    if free < SCARCE_BYTES {
        let detail = format!(
            "{mib} MiB are free at {}: make room, or keep less (retention.days, retention.max_bytes); events are refused when it is full",
            directory.display()
        );
        return check("disk", Verdict::Warning, detail);
    }
    check("disk", Verdict::Well, format!("{mib} MiB are free"))
}

/// Whether what lies in the directory belongs to whom the directory does: what somebody else put there, a server that runs
/// with the directory's rights cannot open.
#[cfg(unix)]
fn owners(directory: &Path) -> Option<Check> {
    use std::os::unix::fs::MetadataExt as _;
    let of = |name: &str| Some(directory.join(name).symlink_metadata().ok()?.uid());
    // A volume is often root's, and its files are the server's.
    let owner = match directory.metadata().ok()?.uid() {
        0 => of("postrider.db")?,
        owner => owner,
    };
    let own = [
        "postrider.db",
        "postrider.db-wal",
        "postrider.db-shm",
        "postrider.lock",
        "master.key",
    ];
    // Root's own key is read by its group (`master_key::is_too_open`).
    let is_groups = |name: &str| {
        let key = directory.join(name).symlink_metadata();
        name == "master.key" && key.is_ok_and(|key| key.uid() == 0 && key.mode() & 0o040 != 0)
    };
    let names: Vec<&str> = own
        .into_iter()
        .filter(|name| of(name).is_some_and(|found| found != owner) && !is_groups(name))
        .collect();
    if names.is_empty() {
        return Some(check(
            "owner",
            Verdict::Well,
            "the files of the store belong to one user",
        ));
    }
    let detail = format!(
        "{} in {} belong to others than {owner}, whose server may not open them: chown them",
        names.join(", "),
        directory.display()
    );
    Some(check("owner", Verdict::Bad, detail))
}

fn key(config: &Config) -> Check {
    let file = master_key::file(config);
    match master_key::sealer(&file, &config.secrets.previous_key_files, false) {
        Ok(_) if is_of_another_store(config) => {
            let detail = format!(
                "{} is not the master key of this store; put the right one back, or name it in secrets.previous_key_files",
                file.display()
            );
            check("master key", Verdict::Bad, detail)
        }
        Ok(_) => {
            let detail = format!("{} reads, and is not open to others", file.display());
            check("master key", Verdict::Well, detail)
        }
        Err(error) => check("master key", Verdict::Bad, format!("{error:#}")),
    }
}

/// Whether the secrets in the directory are sealed with another key; those of a database are looked at with it.
fn is_of_another_store(config: &Config) -> bool {
    let is_here = config.store.url.is_none();
    let opens = || postrider_store_sql::opens(&config.store.directory, &master_key::opens(config));
    is_here && !opens().unwrap_or(true)
}

/// The database of `store.url`, as a server would find it.
async fn database(config: &Config) -> Option<Check> {
    let options = PostgresOptions {
        opens: Some(master_key::opens(config)),
        ..config.store.postgres()?
    };
    Some(match SqlStore::examine_database(options).await {
        Ok(owner) => {
            let by = owner.url.map_or_else(String::new, |url| {
                format!("; the server that has or had it is at {url}")
            });
            let detail = format!("it is reached, and a secret in it opens if there is one{by}");
            check("database", Verdict::Well, detail)
        }
        Err(error) => {
            let why = std::error::Error::source(&error);
            let why = why.map_or_else(|| error.to_string(), |why| format!("{error}: {why}"));
            check("database", Verdict::Bad, why)
        }
    })
}

/// The names in the configuration that this machine has to find.
async fn names(config: &Config) -> Vec<Check> {
    let hosts = hosts(config);
    if hosts.is_empty() {
        return Vec::new();
    }
    let resolver = match SystemResolver::new() {
        Ok(resolver) => resolver,
        Err(error) => return vec![check("names", Verdict::Bad, error.to_string())],
    };
    let mut checks = Vec::new();
    for (setting, host) in hosts {
        if host.parse::<IpAddr>().is_ok() {
            continue;
        }
        checks.push(match resolver.resolve(&host).await {
            Ok(found) => {
                let detail = format!("{host} of {setting} has {} addresses", found.len());
                check("names", Verdict::Well, detail)
            }
            Err(error) => {
                let detail = format!("{host} of {setting} is not found: {error}");
                check("names", Verdict::Bad, detail)
            }
        });
    }
    checks
}

fn hosts(config: &Config) -> Vec<(&'static str, String)> {
    let of_url = |url: &str| {
        let url = Url::parse(url).ok()?;
        Some(url.host_str()?.trim_matches(['[', ']']).to_owned())
    };
    let smtp = config.notifications.smtp.as_ref();
    let named = [
        (
            "egress.proxy",
            config.egress.proxy.as_deref().and_then(of_url),
        ),
        (
            "telemetry.endpoint",
            config.telemetry.endpoint.as_deref().and_then(of_url),
        ),
        ("notifications.smtp", smtp.map(|smtp| smtp.host.clone())),
    ];
    let cells = config.cells.urls.iter();
    let cells = cells.map(|url| ("cells.urls", of_url(url)));
    let named = named.into_iter().chain(cells);
    named
        .filter_map(|(setting, host)| Some((setting, host?)))
        .collect()
}

/// Sends a request as a delivery goes out, and compares the clocks.
async fn way_out(transport: &dyn Transport, url: &Url) -> Vec<Check> {
    let request = Request {
        url: url.to_string(),
        headers: [
            ("content-type", "application/json"),
            (
                "user-agent",
                concat!("Postrider/", env!("CARGO_PKG_VERSION")),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        body: Bytes::from_static(b"{}"),
        connect_timeout: REACH_TIMEOUT,
        total_timeout: REACH_TIMEOUT,
        read_max: REACH_BYTES,
        region: None,
        title_case: false,
        repeat: true,
    };
    let exchange = transport.send(&request).await;
    match &exchange.outcome {
        Outcome::Unreachable { reason, detail } => {
            let detail = format!("{url} is not reached ({}): {detail}", reason.as_str());
            vec![check("way out", Verdict::Bad, detail)]
        }
        Outcome::Answered { status, .. } => {
            let egress = exchange.egress.as_ref();
            let from =
                egress.map_or_else(String::new, |egress| format!(" from {}", egress.address));
            let detail = format!("{url} answered {status}{from}{}", spent(&exchange.timings));
            let mut checks = vec![check("way out", Verdict::Well, detail)];
            checks.extend(its_clock(url, &exchange));
            checks
        }
    }
}

/// How long each step took.
fn spent(timings: &Timings) -> String {
    let steps = [
        ("name", timings.dns_micros),
        ("connection", timings.connect_micros),
        ("TLS", timings.tls_micros),
        ("answer", timings.first_byte_micros),
    ];
    let told = steps.into_iter().filter_map(|(step, micros)| {
        let millis = f64::from(micros?) / 1_000.0;
        Some(format!(", {step} {millis:.1} ms"))
    });
    told.collect()
}

/// Compares this machine's clock with that of whoever answered.
fn its_clock(url: &Url, exchange: &Exchange) -> Option<Check> {
    let headers = &exchange.response.as_ref()?.headers;
    let date = headers.iter().find(|(name, _)| name == "date")?;
    let theirs = httpdate::parse_http_date(&date.1).ok()?;
    let ours = wall_clock();
    let apart = ours
        .duration_since(theirs)
        .unwrap_or_else(|earlier| earlier.duration());
    let way = if ours < theirs { "behind" } else { "ahead of" };
    let host = url.host_str().unwrap_or_default();
    if apart <= CLOCK_OFF {
        let detail = format!("as that of {host}");
        return Some(check("clock", Verdict::Well, detail));
    }
    let verdict = match apart > CLOCK_WRONG {
        true => Verdict::Bad,
        false => Verdict::Warning,
    };
    let detail = format!(
        "{} s {way} that of {host}: set the one that is wrong (NTP); receivers refuse signatures that are minutes off",
        apart.as_secs()
    );
    Some(check("clock", verdict, detail))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the machine's own clock is what is looked at"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
