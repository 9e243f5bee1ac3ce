//! What a command prints: answers to stdout, everything else to stderr.

use std::io::Write as _;

/// Prints a line of the answer. A reader that went away (`| head`) ends the command quietly.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        #[expect(
            clippy::exit,
            reason = "nobody reads any more: there is nothing left to do"
        )]
        std::process::exit(0);
    }
}

/// Prints a line that the process does not depend on: a server goes on although nobody reads it.
pub fn tell(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}
