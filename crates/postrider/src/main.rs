//! The entry: reads the command line and runs one command.

use std::process::ExitCode;

use clap::Parser;
use postrider::cli::{Cli, run};

/// A delivery is some hundred small things that one thread makes and another drops, at which glibc's allocator is slow
/// (`docs/performance.md`). Elsewhere nobody has measured.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The command did not work; the error says what to do.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    // One TLS provider for everything; a second installation could only be a second call of main.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the error is what the user came for")]
            {
                eprintln!("error: {error:#}");
            }
            ExitCode::from(FAILED)
        }
    }
}
