//! Test helpers: a receiver that misbehaves on request, certificates of every kind, a scripted
//! resolver's data. Only for tests.

pub mod certificates;
pub mod receiver;

pub use receiver::{Behaviour, Receiver, Request};
