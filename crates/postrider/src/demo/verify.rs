//! Verifying as each vendor publishes it, and not with the code that signed: a receiver has only the
//! vendor's page.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use postrider_core::Secret;
use postrider_core::profile::{built_in, signing_key};
use postrider_core::seal::hex;
use postrider_engine::{Clock, SystemClock};
use serde_json::Value;

use crate::receiver::Received;

/// Whose page a receiver was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Vignetim,
    SimplifyTrip,
    Voucherify,
    /// The open specification; its profile verifies as third-party libraries do.
    StandardWebhooks,
}

impl Method {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Vignetim => "vignetim",
            Self::SimplifyTrip => "simplifytrip",
            Self::Voucherify => "voucherify",
            Self::StandardWebhooks => "standard",
        }
    }

    /// Whether the webhook is from who has the secret.
    pub(super) fn accepts(self, received: &Received, secret: &Secret) -> bool {
        let signed_with = |message: &[u8], header: &str| {
            received.header(header) == Some(hmac_hex(secret, message).as_str())
        };
        match self {
            Self::Vignetim => signed_with(&received.body, "x-webhook-signature"),
            Self::Voucherify => signed_with(&received.body, "x-voucherify-signature"),
            Self::SimplifyTrip => {
                let Ok(body) = serde_json::from_slice::<Value>(&received.body) else {
                    return false;
                };
                // Sorted by bytes, which of ASCII is the order of UTF-16 units.
                let mut flat = BTreeMap::new();
                flatten(&body, String::new(), &mut flat);
                let pairs: Vec<String> = flat.iter().map(|(k, v)| format!("{k}={v}")).collect();
                signed_with(pairs.join("&").as_bytes(), "x-simplify-trip-signature")
            }
            Self::StandardWebhooks => {
                let Some(profile) = built_in().iter().find(|known| known.name == self.name())
                else {
                    return false;
                };
                let Ok(key) = signing_key(&profile.secret, secret) else {
                    return false;
                };
                let header = |name: &str| received.header(name);
                profile
                    .verify(&header, &received.body, &[key], SystemClock.now())
                    .is_ok()
            }
        }
    }
}

fn hmac_hex(secret: &Secret, message: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
    hex(hmac::sign(&key, message).as_ref())
}

/// One level, with `_` in the path. Enough for the demo's own orders, whose keys are ASCII and whose
/// numbers are small.
fn flatten(value: &Value, path: String, flat: &mut BTreeMap<String, String>) {
    let under = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}_{name}")
        }
    };
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                flatten(child, under(name), flat);
            }
        }
        Value::Array(list) => {
            for (index, child) in list.iter().enumerate() {
                flatten(child, under(&index.to_string()), flat);
            }
        }
        Value::Null => drop(flat.insert(path, String::new())),
        Value::String(text) => drop(flat.insert(path, text.clone())),
        Value::Bool(_) | Value::Number(_) => drop(flat.insert(path, value.to_string())),
    }
}
