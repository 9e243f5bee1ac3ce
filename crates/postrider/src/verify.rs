//! `postrider verify`: whether a request that a receiver saved is from who has the secret.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use postrider_core::profile::{Profile, SigningKey, VerifyError, built_in, signing_key};
use postrider_core::{Secret, Timestamp};
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
    let (headers, body) = split(&saved)?;
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

type Headers<'s> = Vec<(&'s str, &'s str)>;

/// Header lines, with or without a request line before them, and the body after an empty line.
fn split(saved: &[u8]) -> anyhow::Result<(Headers<'_>, &[u8])> {
    let form = "a saved request has header lines such as \"webhook-id: msg_1\", an empty line, and the body";
    let mut headers = Vec::new();
    let mut rest = saved;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n').context(form)?;
        let text = std::str::from_utf8(&rest[..end]).context(form)?;
        let text = text.trim_end_matches('\r');
        rest = &rest[end + 1..];
        if text.is_empty() {
            return Ok((headers, rest));
        }
        match text.split_once(':') {
            Some((name, value)) if !name.contains(' ') => headers.push((name, value.trim())),
            // `POST /hook HTTP/1.1`
            _ if headers.is_empty() => {}
            _ => anyhow::bail!("{text:?} is no header; {form}"),
        }
    }
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
    let keys = secrets.iter().map(|text| {
        // A text that is a key by its form only would refuse everything without a reason.
        if let Some(prefix) = Some(&profile.secret.format.prefix).filter(|prefix| !prefix.is_empty())
            && !text.starts_with(prefix.as_str())
            && !(profile.secret.asymmetric && text.starts_with("whpk_"))
        {
            anyhow::bail!("a secret of the profile {} begins with {prefix}; copy the whole text that was shown with the endpoint", profile.name);
        }
        Ok(signing_key(&profile.secret, &Secret::new(text.clone()))?)
    });
    keys.collect()
}
