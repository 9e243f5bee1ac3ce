//! What goes with the binary: completions for shells, and man pages.

use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output::line;

/// Prints the completions of a shell.
///
/// # Errors
/// When they are no text, which a test rules out.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "postrider", &mut text);
    line(String::from_utf8(text)?.trim_end());
    Ok(())
}

/// Writes a man page of each command into a directory.
///
/// # Errors
/// When one cannot be written.
pub(crate) fn man_pages(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .with_context(|| format!("failed to write man pages into {}", directory.display()))
}
