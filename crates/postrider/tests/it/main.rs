//! The server as its users meet it: real HTTP, a real database, real signals.

mod bad_input;
mod delivering;
mod managing;
mod process;
mod support;
mod vignetim;
