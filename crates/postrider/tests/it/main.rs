//! The server as its users meet it: real HTTP, a real database, real signals.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops where something is not as it must be"
)]
#![expect(
    clippy::too_many_lines,
    reason = "a test is a story, told in one piece"
)]

mod bad_input;
mod binary;
mod bounds;
mod cancelling;
mod catching_up;
mod cells;
mod commands;
mod confirming;
mod connections;
mod content;
mod damage;
mod deletions;
mod delivering;
mod distributions;
mod doctor;
mod documents;
mod egress;
mod filters;
mod first_day;
mod foreign;
mod hostile;
mod keys;
mod limits;
mod managing;
mod metrics;
mod model;
mod modes;
mod moving;
mod nodes;
mod notifications;
mod outbox;
mod pages;
mod patching;
mod postgres;
mod process;
mod read_only;
mod retention;
mod schemas;
mod secrecy;
mod send_outs;
mod simplifytrip;
mod supervised;
mod support;
mod svix;
mod tls;
mod tracing;
mod users;
mod verifying;
mod vignetim;
mod voucherify;
