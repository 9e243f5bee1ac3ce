//! The words and rules of webhook delivery.
//!
//! Everything here is pure: no I/O, no clock, no randomness of its own. `now` and random bytes are
//! arguments. What a profile says about ids, secrets, bodies, signatures, schedules and health is
//! compiled here into a plan ([`profile::Profile`]) that the rest of the house only executes.

pub mod address;
pub mod attempt;
pub mod audit;
pub mod branding;
pub mod delivery;
pub mod distribution;
pub mod endpoint;
pub mod endpoint_url;
pub mod event;
pub mod filter;
pub mod health;
pub mod id;
pub mod json;
pub mod judge;
pub mod limits;
pub mod notice;
pub mod profile;
mod schema;
pub mod seal;
pub mod secret;
pub mod session;
pub mod tenant;
pub mod time;
pub mod trace;
pub mod user;

pub use id::Id;
pub use secret::Secret;
pub use time::Timestamp;
