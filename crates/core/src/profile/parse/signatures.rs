//! The headers and signatures of a profile.

use crate::profile::reader::{Mistakes, Section, sections};
use crate::profile::{
    Algorithm, Arrays, Encoding, FlatKv, HeaderSpec, Hole, SignatureSpec, SignedInput, Sort,
    Template,
};

/// Headers a profile may not template: the transport writes them.
const TRANSPORT_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "content-type",
];

fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn header_name(name: &str) -> Result<String, String> {
    if !is_header_name(name) {
        return Err(format!("{name:?} is not a header name"));
    }
    if TRANSPORT_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!("{name} is written by the transport"));
    }
    Ok(name.to_owned())
}

pub(super) fn read_headers(root: &mut Section<'_>, m: &mut Mistakes<'_>) -> Vec<HeaderSpec> {
    let mut headers: Vec<HeaderSpec> = Vec::new();
    for mut section in sections(root, "header", m) {
        let name = section.parsed("name", m, header_name);
        let value = section.parsed("value", m, |text| Template::text(text, &[]));
        let extra = section.parsed("extra", m, |text| match text {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err("must be on or off, which is the default".to_owned()),
        });
        match (name, value) {
            (Some(name), _)
                if headers
                    .iter()
                    .any(|known| known.name.eq_ignore_ascii_case(&name)) =>
            {
                m.add(&section.span, format!("the header {name} is there twice"));
            }
            (Some(name), Some(value)) => headers.push(HeaderSpec { name, value, extra }),
            _ if section.get("name").is_none() || section.get("value").is_none() => {
                m.add(&section.span, "a header needs name and value");
            }
            // What is wrong with it was told.
            _ => {}
        }
        section.finish(m);
    }
    headers
}

pub(super) fn read_signatures(
    root: &mut Section<'_>,
    headers: &[HeaderSpec],
    m: &mut Mistakes<'_>,
) -> Vec<SignatureSpec> {
    let mut signatures = Vec::new();
    for mut section in sections(root, "signature", m) {
        let header = section.parsed("header", m, header_name);
        let algorithm = section.parsed("algorithm", m, |text| match text {
            "hmac-sha256" => Ok(Algorithm::HmacSha256),
            "hmac-sha1" => Ok(Algorithm::HmacSha1),
            "ed25519" => Ok(Algorithm::Ed25519),
            _ => Err("must be hmac-sha256, hmac-sha1 or ed25519".to_owned()),
        });
        let encoding = section.parsed("encoding", m, |text| match text {
            "hex" => Ok(Encoding::Hex),
            "base64" => Ok(Encoding::Base64),
            _ => Err("must be hex or base64".to_owned()),
        });
        let text = section.parsed("input", m, |text| Template::text(text, &[Hole::Body]));
        let input = match (text.map(SignedInput::Text), read_flat_kv(&mut section, m)) {
            // That both are absent is told below, with whatever else is.
            (input, None) | (None, input) => input,
            (Some(_), Some(_)) => {
                m.add(&section.span, "a signature has input or flat_kv, not both");
                None
            }
        };
        let each = section.parsed("each", m, |text| Template::text(text, &[Hole::Sig]));
        let each = each.or_else(|| Template::text("{sig}", &[Hole::Sig]).ok());
        let prefix = section.parsed("prefix", m, |text| Template::text(text, &[]));
        let join = section.text("join", m).unwrap_or_else(|| " ".to_owned());
        match (header, algorithm, encoding, input, each) {
            (Some(header), Some(algorithm), Some(encoding), Some(input), Some(each)) => {
                let spec = SignatureSpec {
                    header,
                    algorithm,
                    input,
                    encoding,
                    each,
                    prefix,
                    join,
                };
                if let Err(why) = must_be_verifiable(&spec, headers) {
                    m.add(&section.span, why);
                }
                signatures.push(spec);
            }
            _ => {
                // What is there and wrong was told where it was read: each mistake is told once.
                let has = |section: &mut Section<'_>, key| section.get(key).is_some();
                let complete =
                    ["header", "algorithm", "encoding"].map(|key| has(&mut section, key));
                let signed = has(&mut section, "input") || has(&mut section, "flat_kv");
                if complete.contains(&false) || !signed {
                    let needed =
                        "a signature needs header, algorithm, encoding and input (or flat_kv)";
                    m.add(&section.span, needed);
                }
            }
        }
        section.finish(m);
    }
    if root.get("signature").is_none() {
        m.add(
            &root.span,
            "at least one [[signature]] is needed: an unsigned webhook cannot be trusted",
        );
    }
    signatures
}

fn read_flat_kv(parent: &mut Section<'_>, m: &mut Mistakes<'_>) -> Option<SignedInput> {
    let mut section = parent.section("flat_kv", m);
    if !section.is_present() {
        return None;
    }
    let mut text = |key, default: &str, m: &mut Mistakes<'_>| {
        section.text(key, m).unwrap_or_else(|| default.to_owned())
    };
    let form = FlatKv {
        separator: text("separator", "_", m),
        pair: text("pair", "=", m),
        join: text("join", "&", m),
        null: None,
        exclude: Vec::new(),
        empty: None,
        arrays: Arrays::Index,
        sort: Sort::Utf16,
        encode: false,
        of: None,
    };
    let arrays = section.parsed("arrays", m, |text| match text {
        "index" => Ok(Arrays::Index),
        "json" => Ok(Arrays::Json),
        _ => Err("must be index or json".to_owned()),
    });
    let sort = section.parsed("sort", m, |text| match text {
        "utf16" => Ok(Sort::Utf16),
        "bytes" => Ok(Sort::Bytes),
        "none" => Ok(Sort::None),
        _ => Err("must be utf16, bytes or none".to_owned()),
    });
    let encode = section.boolean("encode", m).unwrap_or(false);
    let empty = section.text("empty", m);
    let of = section.text("of", m);
    let null = section.text("null", m);
    let exclude = section.texts("exclude", m).unwrap_or_default();
    section.finish(m);
    let exclude = exclude.into_iter().map(|(text, _)| text).collect();
    Some(SignedInput::FlatKv(FlatKv {
        null,
        exclude,
        empty,
        arrays: arrays.unwrap_or(form.arrays),
        sort: sort.unwrap_or(form.sort),
        encode,
        of,
        ..form
    }))
}

/// What is signed must reach the receiver, or nobody can verify it.
fn must_be_verifiable(spec: &SignatureSpec, headers: &[HeaderSpec]) -> Result<(), String> {
    if !spec.input.holes().contains(&Hole::Body) {
        return Err("signature.input must contain {body}".to_owned());
    }
    if spec.each.holes().filter(|hole| *hole == Hole::Sig).count() != 1 {
        return Err("signature.each must contain {sig} once".to_owned());
    }
    for hole in spec
        .input
        .holes()
        .into_iter()
        .filter(|hole| *hole != Hole::Body)
    {
        let in_header = headers
            .iter()
            // An optional header may be left out, and then nobody could verify.
            .filter(|header| header.extra.is_none())
            .any(|header| header.value.holes().any(|h| h == hole));
        let in_prefix = spec
            .prefix
            .as_ref()
            .is_some_and(|prefix| prefix.holes().any(|h| h == hole));
        if !in_header && !in_prefix {
            return Err(format!(
                "signature.input names {}, but no header or prefix carries it to the receiver",
                hole.name()
            ));
        }
    }
    Ok(())
}
