//! `postrider verify`: whether a request that a receiver saved is from who has the secret.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use postrider_core::Timestamp;
use postrider_core::profile::{Profile, SigningKey, VerifyError, built_in, saved_request};
use postrider_engine::{Clock, SystemClock};

use crate::output::line;
use crate::profiles;

/// Bytes of a saved request that are read.
const REQUEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// File with the request: header lines, an empty line, and the body as it came; - reads it from a pipe
    pub request: PathBuf,
    /// Profile that signed it: a built-in name, or a file
    #[arg(long, default_value = "standard")]
    pub profile: String,
    /// Signing secret of the endpoint; several while a rotation is under way
    #[arg(
        long,
        env = "POSTRIDER_SECRET",
        hide_env_values = true,
        required = true
    )]
    pub secret: Vec<String>,
    /// When it came, such as 2026-11-25T12:00:00Z [default: now]
    #[arg(long)]
    pub at: Option<String>,
}

/// # Errors
/// When the request cannot be read, or its signature is not right: with what a receiver would find.
pub fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    let profile = profile(&args.profile)?;
    let keys = keys(&profile, &args.secret)?;
    let at: Timestamp = match &args.at {
        Some(text) => text.parse().context("--at is not a time")?,
        None => SystemClock.now(),
    };
    let saved = read(&args.request)?;
    let (headers, body) = saved_request(&saved)?;
    let header = |name: &str| {
        let mut named = headers.iter();
        let found = named.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| *value)
    };
    match profile.verify(&header, body, &keys, at) {
        Ok(()) => {
            line(&format!("signature valid ({} bytes of body)", body.len()));
            Ok(())
        }
        Err(error @ VerifyError::Stale) => {
            Err(error).context("signature refused; give --at with the time when the request came")
        }
        Err(error @ VerifyError::Mismatch) => Err(error).context(
            "signature refused; besides another secret, a body that was parsed and written anew reads like this: save the bytes as they came",
        ),
        Err(error) => Err(error).context("signature refused"),
    }
}

fn read(path: &PathBuf) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin()
            .take(REQUEST_BYTES_MAX)
            .read_to_end(&mut bytes)
            .context("cannot read the request from the pipe")?;
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(REQUEST_BYTES_MAX).read_to_end(&mut bytes))
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(bytes)
}

/// A built-in profile, or one that is read from a file.
pub(crate) fn profile(name: &str) -> anyhow::Result<Profile> {
    let mut known = built_in().iter();
    match known.find(|profile| profile.name == name) {
        Some(profile) => Ok(profile.clone()),
        None => profiles::read(&PathBuf::from(name))
            .context("no built-in profile has this name, so it was read as a file"),
    }
}

pub(crate) fn keys(profile: &Profile, secrets: &[String]) -> anyhow::Result<Vec<SigningKey>> {
    let keys = secrets.iter().map(|text| Ok(profile.verifying_key(text)?));
    keys.collect()
}
