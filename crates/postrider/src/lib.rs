//! Postrider: one binary that delivers webhooks. This crate wires the house together; it holds no
//! rules of its own.

pub mod backup;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod demo;
mod descriptors;
pub mod doctor;
mod interrupt;
pub mod listen;
mod log;
pub mod master_key;
mod metrics;
mod migrate;
mod moving;
pub mod output;
mod patrol;
pub mod profiles;
mod prune;
pub mod receiver;
mod root_key;
pub mod serve;
mod shipped;
mod supervisor;
#[cfg(feature = "otel")]
mod telemetry;
pub mod verify;
