//! The management API of a profile, and what each dialect needs to know.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::profile::ApiSpec;
use crate::profile::reader::{Mistakes, Section};

/// Dialects that exist, and the sentences each needs.
const DIALECTS: &[(&str, &[&str])] = &[
    (
        "svix",
        &[
            "authentication_failed",
            "not_found",
            "conflict",
            "application_exists",
            "event_type_exists",
            "route_not_found",
        ],
    ),
    (
        "vignetim",
        &[
            "endpoints_max",
            "not_found",
            "unauthorized",
            "timestamp",
            "nonce",
            "signature",
            "rate_limited",
            "url_required",
            "url_https",
            "url_private",
            "url_invalid",
            "events_required",
            "events_each",
            "events_unknown",
            "description_text",
            "active_boolean",
            "unknown_property",
            "body_object",
            "route_not_found",
            "forbidden",
            "body_too_large",
            "unavailable",
        ],
    ),
    (
        "voucherify",
        &[
            "unauthorized",
            "invalid_payload",
            "not_found",
            "cannot_find",
            "property",
            "unknown_property",
            "not_json",
            "internal_error",
            "unavailable",
        ],
    ),
];

pub(super) fn read_api(root: &mut Section<'_>, m: &mut Mistakes<'_>) -> Option<ApiSpec> {
    let mut section = root.section("api", m);
    if !section.is_present() {
        return None;
    }
    let dialect = section.required_text("dialect", m);
    let base = section.required_text("base", m);
    // It becomes a part of routes, where a brace would begin a parameter.
    let plain = base
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-'));
    if !base.starts_with('/') || base.ends_with('/') || !plain {
        m.add(
            &section.span,
            "api.base must be a path such as /v2/partners",
        );
    }
    let texts_section = section.section("texts", m);
    let texts: BTreeMap<String, String> = texts_section.all_texts(m).into_iter().collect();
    match DIALECTS.iter().find(|(name, _)| *name == dialect) {
        None => m.add(
            &section.span,
            format!("api.dialect {dialect:?} is unknown; known are svix, vignetim and voucherify"),
        ),
        Some((_, needed)) => {
            for name in needed.iter().filter(|name| !texts.contains_key(**name)) {
                m.add(&texts_section.span, format!("api.texts.{name} is missing"));
            }
        }
    }
    let spec = ApiSpec {
        dialect,
        base,
        skew: section
            .duration("skew", m)
            .unwrap_or(Duration::from_secs(300)),
        rate_live: section.count("rate_live", 1_000_000, m).unwrap_or(100),
        rate_test: section.count("rate_test", 1_000_000, m).unwrap_or(500),
        rate_window: section
            .duration("rate_window", m)
            .unwrap_or(Duration::from_secs(60)),
        texts,
    };
    section.finish(m);
    Some(spec)
}
