//! Test helpers: a receiver that misbehaves on request, certificates of every kind, a scripted
//! resolver's data. Only for tests.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops where something is not as it must be"
)]

pub mod certificates;
pub mod mailbox;
pub mod postgres;
pub mod receiver;

pub use mailbox::{Mail, Mailbox};
pub use postgres::Postgres;
pub use receiver::{Behaviour, Receiver, Request};
