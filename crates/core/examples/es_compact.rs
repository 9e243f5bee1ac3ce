//! Reads JSON values, one a line, and writes each as ECMAScript's `JSON.stringify(JSON.parse(line))`
//! would: for comparing with a real engine.

#![expect(
    clippy::print_stdout,
    reason = "a tool for comparing, not a part of the server"
)]

use std::io::BufRead;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for line in std::io::stdin().lock().lines() {
        let compact = postrider_core::json::es::compact(line?.as_bytes())?;
        println!("{}", String::from_utf8(compact)?);
    }
    Ok(())
}
