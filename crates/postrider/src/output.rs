//! What a command prints: answers to stdout, everything else to stderr.

use std::io::{ErrorKind, Write as _};

/// Prints a line of the answer. A reader that went away (`| head`) ends the command quietly; where it cannot be written for
/// another reason (a full disk) the command fails. What is to be done although nobody reads is told with [`tell`].
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) else {
        return;
    };
    let is_quiet = error.kind() == ErrorKind::BrokenPipe;
    if !is_quiet {
        let mut err = std::io::stderr().lock();
        // Where that is full as well, the status is all that is left.
        drop(writeln!(
            err,
            "error: the answer cannot be written: {error}"
        ));
    }
    #[expect(
        clippy::exit,
        reason = "nobody reads any more: there is nothing left to do"
    )]
    std::process::exit(i32::from(!is_quiet));
}

/// Prints a line that the process does not depend on: a server goes on although nobody reads it, and so does a command that
/// changes something.
pub fn tell(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}
