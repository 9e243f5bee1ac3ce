//! The master key file: made once, readable by its owner only.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use postrider_core::seal::{Sealer, hex};
use postrider_core::tenant::TENANT_SECRET_CONTEXT;
use postrider_store_sql::Opens;

use crate::config::Config;

const KEY_BYTES: usize = 32;
/// The user who may read everything.
#[cfg(unix)]
const ROOT: u32 = 0;

/// Where a server has its master key.
pub fn file(config: &Config) -> PathBuf {
    let own = config.secrets.master_key_file.clone();
    own.unwrap_or_else(|| config.store.directory.join("master.key"))
}

/// Reads the master key; `previous` keys only open what they sealed. A new store gets a new key.
///
/// # Errors
/// When a file cannot be read or written, is not a key, or others may read it.
pub fn sealer(
    current: &Path,
    previous: &[impl AsRef<Path>],
    is_new: bool,
) -> anyhow::Result<Sealer> {
    if !current.exists() {
        if !is_new {
            bail!(
                "the master key file {} is missing, and the store has secrets that only it opens; put it back, or set secrets.master_key_file",
                current.display()
            );
        }
        make(current)?;
    }
    let current = read(current)?;
    let previous = previous
        .iter()
        .map(|path| read(path.as_ref()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Sealer::new(&current, &previous))
}

/// Tries the master key that is here then, if there is one, on what is sealed for a tenant.
pub(crate) fn opens(config: &Config) -> Opens {
    let file = file(config);
    let previous = config.secrets.previous_key_files.clone();
    Arc::new(move |sealed, tenant| {
        // What is wrong with it is told where it is needed.
        let sealer = sealer(&file, &previous, false);
        sealer.map_or(true, |sealer| {
            sealer.open(sealed, TENANT_SECRET_CONTEXT, tenant).is_ok()
        })
    })
}

fn make(path: &Path) -> anyhow::Result<()> {
    let mut key = [0; KEY_BYTES];
    SystemRandom::new()
        .fill(&mut key)
        .ok()
        .context("the operating system gave no random bytes")?;
    let failed = || format!("failed to create the master key file {}", path.display());
    let directory = path.parent().filter(|parent| *parent != Path::new(""));
    let directory = directory.unwrap_or(Path::new("."));
    // Whole or not at all: half of a key would stop every later start. Mode 600, as its maker has it.
    let mut file = tempfile::NamedTempFile::new_in(directory).with_context(failed)?;
    writeln!(file, "{}", hex(&key))?;
    // Before anything is sealed with it: lost, it would take all secrets with it. So would its name.
    file.as_file().sync_all()?;
    // Never over one that is there: what it sealed nobody could open any more.
    file.persist_noclobber(path).with_context(failed)?;
    #[cfg(unix)]
    fs::File::open(directory)?.sync_all()?;
    Ok(())
}

/// Whether others can read a file of this mode. One of root's that the group may read is as containers and systemd give
/// secrets: root put it there for the server's group, which cannot change it. Whoever looks may be root too (`doctor`).
#[cfg(unix)]
fn is_too_open(mode: u32, owner: u32) -> bool {
    const GROUP_READS: u32 = 0o040;
    let allowed = if owner == ROOT { GROUP_READS } else { 0 };
    mode & 0o077 & !allowed != 0
}

fn read(path: &Path) -> anyhow::Result<[u8; KEY_BYTES]> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("failed to read the master key file {}", path.display()))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let file = fs::metadata(path)?;
        let is_ours = file.uid() == rustix::process::geteuid().as_raw();
        if is_too_open(file.mode(), file.uid()) {
            let is_given = file.uid() == ROOT && file.gid() != ROOT;
            let mode = match (is_given, is_ours) {
                // A group was given it: `chmod 600` would take it from a server that is in that.
                (true, _) => "chmod 440",
                (false, true) => "chmod 600",
                (false, false) => {
                    "chown it to root and a group that this process is in (SupplementaryGroups in systemd), and chmod 440"
                }
            };
            bail!(
                "others may read the master key file {}; run: {mode} {}",
                path.display(),
                path.display()
            );
        }
    }
    let text = text.trim();
    let mut key = [0; KEY_BYTES];
    if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
        bail!(
            "{} is not a master key: it must be 64 hex digits",
            path.display()
        );
    }
    for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        let parsed = std::str::from_utf8(pair)
            .ok()
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match parsed {
            Some(value) => *byte = value,
            None => bail!(
                "{} is not a master key: it must be 64 hex digits",
                path.display()
            ),
        }
    }
    Ok(key)
}

#[cfg(all(test, unix))]
mod tests {
    use super::{ROOT, is_too_open};

    #[test]
    fn only_what_root_gives_to_the_group_may_be_read_by_it() {
        const OTHER: u32 = 65_532;
        for mode in [0o600, 0o400] {
            assert!(!is_too_open(mode, OTHER));
        }
        assert!(!is_too_open(0o440, ROOT));
        for (mode, owner) in [
            (0o440, OTHER),
            (0o460, ROOT),
            (0o444, ROOT),
            (0o660, ROOT),
            (0o604, ROOT),
        ] {
            assert!(is_too_open(mode, owner), "{mode:o} of {owner}");
        }
    }
}
