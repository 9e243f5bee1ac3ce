//! The delivery engine: a pure machine ([`machine`]) and the shell that drives it ([`shell`]).
//!
//! The engine sees the core and the store's trait; it knows no SQL, no HTTP server and no client.

pub mod machine;
