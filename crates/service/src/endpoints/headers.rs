//! The headers that an endpoint's owner adds: which may be, and how their values are kept.

use std::collections::BTreeMap;

use postrider_core::endpoint::{CustomHeader, Endpoint};
use postrider_core::limits::{CUSTOM_HEADERS_MAX, HEADER_VALUE_BYTES_MAX};
use postrider_core::profile::Profile;
use postrider_core::{Id, Secret, id};
use postrider_store::{Rule, StoreError};

use crate::Service;
use crate::random::seal_nonce;
use crate::refusal::{Refusal, Result};

/// Headers that say where a message goes and where it ends: nobody's but the transport's.
const FRAMING_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
];
const HEADER_NAME_BYTES_MAX: usize = 128;

/// The headers of `endpoint` that were `known` and become as `given`, sealed. A value of stars is what every
/// answer shows: it keeps the value of that name.
pub(crate) fn custom_headers(
    service: &Service,
    profile: &Profile,
    endpoint: Id<id::Endpoint>,
    known: &[CustomHeader],
    given: BTreeMap<String, String>,
) -> Result<NewHeaders> {
    let sealer = &service.0.sealer;
    let mut headers = Vec::with_capacity(given.len());
    for (name, value) in checked(profile, given)? {
        let known = known.iter().find(|header| header.name == name);
        // The same value is not sealed anew: the audit log would tell that it was replaced.
        let same = |header: &&CustomHeader| {
            let old = header.open(endpoint, sealer);
            value == CustomHeader::STARS || old.is_ok_and(|old| old.expose() == value)
        };
        headers.push(match known.filter(same) {
            Some(header) => (header.clone(), value == CustomHeader::STARS),
            None if value == CustomHeader::STARS => {
                return Err(Refusal::invalid(
                    format!("headers.{name}"),
                    "is only stars; they keep the value of a header that is there, and this one is not",
                ));
            }
            None => {
                let value = Secret::new(value);
                let header = CustomHeader::seal(name, &value, endpoint, sealer, seal_nonce());
                (header, false)
            }
        });
    }
    Ok(NewHeaders(headers))
}

/// The headers that an endpoint is to have, and which of them keep the value that is there.
pub(crate) struct NewHeaders(Vec<(CustomHeader, bool)>);

impl NewHeaders {
    /// Puts them, inside the transaction of the change: a value that is kept is the one that is there then.
    pub(crate) fn put(self, endpoint: &mut Endpoint) {
        let known = std::mem::take(&mut endpoint.headers);
        let header = |(header, keeps): (CustomHeader, bool)| {
            let mut same = known.iter().filter(|known| known.name == header.name);
            // One that is to stay may have been taken away meanwhile.
            if keeps {
                same.next().cloned()
            } else {
                Some(header)
            }
        };
        endpoint.headers = self.0.into_iter().filter_map(header).collect();
    }
}

/// The headers that change, each with its new value or none: those that are not named stay.
pub(crate) fn header_changes(
    service: &Service,
    profile: &Profile,
    endpoint: &Endpoint,
    given: BTreeMap<String, Option<String>>,
) -> Result<HeaderChanges> {
    let named: Vec<String> = given.keys().cloned().collect();
    let fresh = given
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let NewHeaders(fresh) = custom_headers(service, profile, endpoint.id, &[], fresh.collect())?;
    let fresh: Vec<CustomHeader> = fresh.into_iter().map(|(header, _)| header).collect();
    if fresh.len() > CUSTOM_HEADERS_MAX {
        let rule = format!("must have at most {CUSTOM_HEADERS_MAX} entries");
        return Err(Refusal::invalid("headers", rule));
    }
    Ok(HeaderChanges { named, fresh })
}

fn is_named(names: &[String], header: &CustomHeader) -> bool {
    names
        .iter()
        .any(|name| name.eq_ignore_ascii_case(&header.name))
}

/// Headers that take the place of those of the same names.
pub(crate) struct HeaderChanges {
    named: Vec<String>,
    fresh: Vec<CustomHeader>,
}

impl HeaderChanges {
    /// Makes them, inside the transaction of the change: two that come at once are counted together.
    pub(crate) fn put(self, endpoint: &mut Endpoint) -> std::result::Result<(), StoreError> {
        endpoint
            .headers
            .retain(|header| !is_named(&self.named, header));
        endpoint.headers.extend(self.fresh);
        if endpoint.headers.len() > CUSTOM_HEADERS_MAX {
            return Err(StoreError::conflict(Rule::HeadersMax));
        }
        Ok(())
    }
}

/// What names of headers are made of (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What their values may have; of it every receiver makes the same.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte == b' ' || byte.is_ascii_graphic()
}

fn checked(profile: &Profile, given: BTreeMap<String, String>) -> Result<Vec<(String, String)>> {
    // A profile that has no custom headers takes an endpoint without any.
    if given.is_empty() {
        return Ok(Vec::new());
    }
    if !profile.custom_headers.allow {
        return Err(Refusal::invalid(
            "headers",
            format!("the profile {} has no custom headers", profile.name),
        ));
    }
    if given.len() > CUSTOM_HEADERS_MAX {
        return Err(Refusal::invalid(
            "headers",
            format!("must have at most {CUSTOM_HEADERS_MAX} entries"),
        ));
    }
    let mut headers: Vec<(String, String)> = Vec::with_capacity(given.len());
    for (name, value) in given {
        let field = format!("headers.{name}");
        check_name(profile, &field, &name)?;
        if headers
            .iter()
            .any(|(known, _)| known.eq_ignore_ascii_case(&name))
        {
            return Err(Refusal::invalid(
                field,
                "is there twice; upper and lower case are the same",
            ));
        }
        check_value(field, &value)?;
        headers.push((name, value));
    }
    Ok(headers)
}

fn check_name(profile: &Profile, field: &str, name: &str) -> Result<()> {
    let lower = name.to_ascii_lowercase();
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(Refusal::invalid(field, "is not a header name"));
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if profile.custom_headers.lower_case && !name.bytes().all(plain) {
        let rule = "must have lower-case letters, digits and dashes only";
        return Err(Refusal::invalid(field, rule));
    }
    if name.len() > HEADER_NAME_BYTES_MAX {
        return Err(Refusal::invalid(
            field,
            format!("must have a name of at most {HEADER_NAME_BYTES_MAX} bytes"),
        ));
    }
    let framing = FRAMING_HEADERS.contains(&lower.as_str()) || lower.starts_with("proxy-");
    let reserved =
        framing
            || profile.custom_headers.reserved.iter().any(|pattern| {
                match pattern.strip_suffix('*') {
                    Some(prefix) => lower.starts_with(prefix),
                    None => lower == *pattern,
                }
            });
    // A header has one value on the wire: the owner's would take the place of the profile's, or of a
    // signature.
    let written = profile
        .headers
        .iter()
        .any(|known| known.name.eq_ignore_ascii_case(name));
    if reserved
        || written
        || profile
            .signatures
            .iter()
            .any(|spec| spec.header.eq_ignore_ascii_case(name))
    {
        return Err(Refusal::invalid(field, "is written by the server"));
    }
    Ok(())
}

fn check_value(field: String, value: &str) -> Result<()> {
    let sendable = !value.trim().is_empty()
        && value.len() <= HEADER_VALUE_BYTES_MAX
        && value.bytes().all(is_text);
    if !sendable {
        let rule = format!(
            "must be 1 to {HEADER_VALUE_BYTES_MAX} ASCII characters, not all blank, without control characters"
        );
        return Err(Refusal::invalid(field, rule));
    }
    Ok(())
}
