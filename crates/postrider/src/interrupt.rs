//! Ctrl-C, for commands that go on until somebody presses it.

use std::io;

/// Hears it from when this is made: `tokio::signal::ctrl_c` does from when it is waited for, and one that comes before may
/// be lost.
pub(crate) struct Interrupt(Heard);

#[cfg(unix)]
type Heard = tokio::signal::unix::Signal;
#[cfg(windows)]
type Heard = tokio::signal::windows::CtrlC;

impl Interrupt {
    /// # Errors
    /// When the system does not let it be heard.
    pub(crate) fn listen() -> io::Result<Self> {
        #[cfg(unix)]
        let heard = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
        #[cfg(windows)]
        let heard = tokio::signal::windows::ctrl_c();
        heard.map(Self)
    }

    /// Waits until it is pressed.
    pub(crate) async fn pressed(mut self) {
        self.0.recv().await;
    }
}
