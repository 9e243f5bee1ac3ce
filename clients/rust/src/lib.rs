//! A client of a Postrider server. [`Client`] has a method for each operation of the API; all but [`connect`] and
//! [`Problem`] is made from the server's OpenAPI document when this is built.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = postrider_client::connect("https://hooks.example.com", "pr_live_…")?;
//! let published = client
//!     .publish_event()
//!     .tenant("ten_01m8ggnwg8e009nnw4bt6w21ab".to_owned())
//!     .idempotency_key("order-1-completed")
//!     .body_map(|event| event.type_("order.completed").data(serde_json::json!({ "orderId": "1" })))
//!     .send()
//!     .await?;
//! println!("{} endpoints get it", published.deliveries);
//! # Ok(())
//! # }
//! ```
//!
//! A refusal is an `Err` that says what to do: [`Problem::of`] finds it. A field that is null in the API is left out
//! here, so that a change cannot set one to null; the command line's `postrider api patch` can.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

/// Longer than the server takes for anything but a flood.
const TIMEOUT: Duration = Duration::from_secs(30);

mod made {
    #![allow(
        dead_code,
        unused_imports,
        mismatched_lifetime_syntaxes,
        clippy::all,
        rustdoc::all,
        reason = "as the generator writes it"
    )]

    include!(concat!(env!("OUT_DIR"), "/client.rs"));
}

pub use made::{Client, ClientInfo, Error, ResponseValue, builder, types};

/// A client with a key, for the server at `url`.
///
/// # Errors
/// When the key is not one that a header can carry, or TLS cannot be set up.
pub fn connect(url: &str, key: &str) -> Result<Client, ConnectError> {
    let mut bearer =
        HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| ConnectError::Key)?;
    bearer.set_sensitive(true);
    let http = reqwest::Client::builder()
        .default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
        .timeout(TIMEOUT)
        .build()
        .map_err(ConnectError::Tls)?;
    Ok(Client::new_with_client(url.trim_end_matches('/'), http))
}

/// Why there is no client.
#[derive(Debug)]
pub enum ConnectError {
    /// The key has letters that no key has.
    Key,
    Tls(reqwest::Error),
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key => {
                f.write_str("the key has letters that no key has: give it as it was shown")
            }
            Self::Tls(error) => write!(f, "TLS cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// What the server refuses, with a stable `code`, what to do (`detail`) and the `field` that is wrong.
pub type Problem = types::ProblemView;

impl Problem {
    /// The server's refusal in an error; none where none came: the network, or a proxy in between.
    pub fn of(error: &Error<Self>) -> Option<&Self> {
        match error {
            Error::ErrorResponse(response) => Some(response),
            _ => None,
        }
    }
}
