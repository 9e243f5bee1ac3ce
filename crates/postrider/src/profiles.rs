//! `postrider profile`, and the profiles of a directory.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use postrider_core::profile::{Profile, Steps, built_in};

use crate::output::line;

#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// Check a profile file and explain every mistake with its line
    Check { file: PathBuf },
    /// Show a built-in profile, or list them
    Show { name: Option<String> },
}

/// # Errors
/// When a file has mistakes, or no profile has the name.
pub fn run(command: &ProfileCommand) -> anyhow::Result<()> {
    match command {
        ProfileCommand::Check { file } => {
            let profile = read(file)?;
            line(&format!(
                "{}: the profile {} is sound; {}",
                file.display(),
                profile.name,
                schedule(&profile)
            ));
        }
        ProfileCommand::Show { name: None } => {
            for profile in built_in() {
                line(&format!("{:<14} {}", profile.name, profile.summary));
            }
        }
        ProfileCommand::Show { name: Some(name) } => {
            match built_in().iter().find(|profile| profile.name == *name) {
                Some(profile) => line(profile.source.trim_end()),
                None => {
                    let known: Vec<&str> = built_in()
                        .iter()
                        .map(|profile| profile.name.as_str())
                        .collect();
                    bail!(
                        "there is no built-in profile {name:?}; there are {}",
                        known.join(", ")
                    );
                }
            }
        }
    }
    Ok(())
}

/// Reads one profile file.
///
/// # Errors
/// With every mistake and its line.
pub fn read(file: &Path) -> anyhow::Result<Profile> {
    let source = std::fs::read_to_string(file)
        .with_context(|| format!("failed to read {}", file.display()))?;
    Profile::parse(&source).map_err(|mistakes| {
        let lines: Vec<String> = mistakes
            .iter()
            .map(|mistake| format!("{}:{mistake}", file.display()))
            .collect();
        anyhow::anyhow!("the profile has mistakes:\n{}", lines.join("\n"))
    })
}

/// Reads all profiles of a directory.
///
/// # Errors
/// As [`read`], and when two have one name.
pub fn read_directory(directory: &Path) -> anyhow::Result<Vec<Profile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)
        .with_context(|| format!("failed to read {}", directory.display()))?
    {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    // A directory has no order of its own: what is wrong is told in the same one each time.
    files.sort();
    let profiles = files
        .iter()
        .map(|file| read(file))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for (index, profile) in profiles.iter().enumerate() {
        if profiles[..index]
            .iter()
            .any(|other| other.name == profile.name)
        {
            bail!(
                "two profiles in {} have the name {:?}",
                directory.display(),
                profile.name
            );
        }
    }
    Ok(profiles)
}

fn schedule(profile: &Profile) -> String {
    let times = |durations: &[std::time::Duration]| {
        durations
            .iter()
            .map(|d| format!("{} s", d.as_secs_f64()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match &profile.retry.steps {
        Steps::Delays { delays, .. } if delays.is_empty() => "it never retries".to_owned(),
        Steps::Delays { delays, .. } => format!("it retries after {}", times(delays)),
        Steps::Offsets(offsets) => format!("it retries {} after the first attempt", times(offsets)),
        Steps::Exponential {
            base, cap, max_age, ..
        } => {
            format!(
                "it retries from {} s to {} s apart for {} s",
                base.as_secs(),
                cap.as_secs(),
                max_age.as_secs()
            )
        }
    }
}
