//! The log: to stderr, and never in anybody's way.

use std::io::{IsTerminal as _, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{LogConfig, LogFormat};
#[cfg(feature = "otel")]
use crate::telemetry::logs::Bridge;

/// Stderr whose reader may be gone or not read, and whose disk may be full: what cannot be written is lost.
#[derive(Clone, Copy)]
struct Careless;

/// Of the last line that was begun the rest is lost.
static IS_CUT: AtomicBool = AtomicBool::new(false);

impl Write for Careless {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // Nobody else writes between a look and what it was for.
        let mut stderr = std::io::stderr().lock();
        // What was cut off has no end yet.
        if IS_CUT.load(Ordering::Relaxed) {
            if !takes(&stderr) || stderr.write_all(b"\n").is_err() {
                return Ok(bytes.len());
            }
            IS_CUT.store(false, Ordering::Relaxed);
        }
        for (number, part) in bytes.chunks(PIPE_TAKES).enumerate() {
            if !takes(&stderr) || stderr.write_all(part).is_err() {
                IS_CUT.store(number > 0, Ordering::Relaxed);
                break;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        drop(std::io::stderr().flush());
        Ok(())
    }
}

/// Bytes that a pipe takes at once when it takes any (POSIX: at least 512; Linux: 4,096).
const PIPE_TAKES: usize = if cfg!(target_os = "linux") {
    4_096
} else {
    512
};
/// How long a line waits for whoever reads the log.
#[cfg(unix)]
const READER_WAIT: std::time::Duration = std::time::Duration::from_millis(100);

/// Whether stderr can be written to without waiting for whoever reads it: of those who do not, the first line waits a
/// moment, and no other until they read again.
#[cfg(unix)]
fn takes(stderr: &std::io::StderrLock<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    static IS_READ: AtomicBool = AtomicBool::new(true);
    let wait = match IS_READ.load(Ordering::Relaxed) {
        true => READER_WAIT,
        false => std::time::Duration::ZERO,
    };
    let wait = Timespec::try_from(wait).ok();
    let found = poll(&mut [PollFd::new(stderr, PollFlags::OUT)], wait.as_ref());
    let takes = match found {
        Ok(ready) => ready > 0,
        // A signal came meanwhile: a line is lost, and not everybody's time.
        Err(rustix::io::Errno::INTR) => false,
        // What cannot be asked is tried.
        Err(_) => true,
    };
    IS_READ.store(takes, Ordering::Relaxed);
    takes
}

#[cfg(not(unix))]
fn takes(_: &std::io::StderrLock<'_>) -> bool {
    true
}

/// Changes the level of the log that was started.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Gives the log that was started to a collector too, or to none any more.
#[cfg(feature = "otel")]
type Collect = Box<dyn Fn(Option<Bridge>) + Send + Sync>;
#[cfg(feature = "otel")]
static COLLECTED: OnceLock<Collect> = OnceLock::new();

#[cfg(feature = "otel")]
pub(crate) fn also_to(bridge: Option<Bridge>) {
    if let Some(collect) = COLLECTED.get() {
        collect(bridge);
    }
}

/// Starts the log. A second server in one process (the demo, tests) keeps the first one's.
///
/// # Errors
/// When the level is none.
pub(crate) fn start(config: &LogConfig) -> anyhow::Result<()> {
    let (filter, handle) = reload::Layer::new(filter(config)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        // It would print them with `eprintln!`, which panics where stderr is gone.
        .log_internal_errors(false)
        .with_writer(|| Careless);
    let lines = match config.format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let log = Registry::default().with(filter).with(lines);
    #[cfg(feature = "otel")]
    let (log, collected) = {
        let (collected, handle) = reload::Layer::new(None::<Bridge>);
        // Ours only, and not of the sending itself: telling of that would send something again.
        let is_sent = tracing_subscriber::filter::filter_fn(|line| {
            let target = line.target();
            target.starts_with("postrider") && !target.starts_with("postrider::telemetry")
        });
        (log.with(collected.with_filter(is_sent)), handle)
    };
    if log.try_init().is_ok() {
        drop(LEVEL.set(handle));
        #[cfg(feature = "otel")]
        drop(COLLECTED.set(Box::new(move |bridge| drop(collected.reload(bridge)))));
    }
    Ok(())
}

/// Gives the running log another level.
///
/// # Errors
/// When the level is none.
pub(crate) fn set_log_level(config: &LogConfig) -> anyhow::Result<()> {
    let filter = filter(config)?;
    if let Some(level) = LEVEL.get() {
        level.reload(filter).context("failed to change log.level")?;
    }
    Ok(())
}

pub(crate) fn filter(config: &LogConfig) -> anyhow::Result<EnvFilter> {
    // A filter takes any word for a module's name; a lone word must be a level.
    let lone = !config.level.contains(['=', ',']);
    if lone
        && config
            .level
            .parse::<tracing_subscriber::filter::LevelFilter>()
            .is_err()
    {
        anyhow::bail!(
            "log.level {:?} is not one of off, error, warn, info, debug, trace, or a filter such as postrider_engine=debug,info",
            config.level
        );
    }
    EnvFilter::try_new(&config.level).with_context(|| {
        format!(
            "log.level {:?} is not a level such as info, or a filter",
            config.level
        )
    })
}
