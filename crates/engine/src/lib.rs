//! The delivery engine: a pure machine ([`machine`]) and the shell that drives it ([`Engine`]).
//!
//! The engine sees the core and the store's trait; it knows no SQL, no HTTP server and no client.

pub mod budget;
pub mod cache;
pub mod clock;
mod ids;
mod journal;
mod lately;
pub mod machine;
mod metrics;
mod profiles;
mod settle;
mod shell;
mod trace;
mod transport;
mod turns;

pub use clock::{Clock, SystemClock};
pub use journal::Busy;
pub use lately::{LastHour, MINUTES};
pub use metrics::Metrics;
pub use profiles::{CurrentProfile, ProfileError, ProfileRegistry};
pub use shell::{Engine, Options, PublishError, Verifier, Watch};
pub use trace::{AttemptSpan, PublishSpan, Tracer};
pub use transport::{Exchange, Request, Transport};
pub use turns::{SharedTurn, SharedTurns, Turns};
