//! What a profile says of event types, distributions and API keys.

use crate::filter::is_event_type;
use crate::profile::reader::{Mistakes, Section, sections};
use crate::profile::{
    Catalogue, DescribedEvent, DistributionSpec, IdFormat, KeyFormats, SecretFormat, Template,
};

pub(super) fn read_events(root: &mut Section<'_>, m: &mut Mistakes<'_>) -> Catalogue {
    let mut section = root.section("events", m);
    let closed = read_names(&mut section, "closed", m);
    let prefixes = section.boolean("prefixes", m).unwrap_or(true);
    section.finish(m);
    Catalogue { closed, prefixes }
}

/// A list of event types.
fn read_names(
    section: &mut Section<'_>,
    key: &'static str,
    m: &mut Mistakes<'_>,
) -> Option<Vec<String>> {
    let names = section.texts(key, m)?;
    for (name, span) in &names {
        if !is_event_type(name) {
            m.add(span, format!("{name:?} is not an event type"));
        }
    }
    Some(names.into_iter().map(|(name, _)| name).collect())
}

fn json(text: &str) -> Result<String, String> {
    let checked = crate::json::check_json(text.as_bytes());
    checked.map_err(|error| error.to_string())?;
    Ok(text.trim().to_owned())
}

pub(super) fn read_event_types(
    root: &mut Section<'_>,
    m: &mut Mistakes<'_>,
) -> Vec<DescribedEvent> {
    let mut types = Vec::new();
    for mut section in sections(root, "event_type", m) {
        let name = section.required_text("name", m);
        if !is_event_type(&name) {
            m.add(&section.span, format!("{name:?} is not an event type"));
        }
        types.push(DescribedEvent {
            name,
            description: section.text("description", m),
            schema: section.parsed("schema", m, json),
            example: section.parsed("example", m, json),
        });
        section.finish(m);
    }
    types
}

pub(super) fn read_distribution(
    root: &mut Section<'_>,
    m: &mut Mistakes<'_>,
) -> Option<DistributionSpec> {
    let mut section = root.section("distribution", m);
    if !section.is_present() {
        return None;
    }
    let id = section.parsed("id", m, IdFormat::parse);
    let body = section.parsed("template", m, Template::json);
    let events = read_names(&mut section, "events", m);
    for key in ["id", "template"] {
        if section.get(key).is_none() {
            m.add(&section.span, format!("distribution.{key} is needed"));
        }
    }
    section.finish(m);
    Some(DistributionSpec {
        id: id?,
        body: body?,
        events,
    })
}

pub(super) fn read_api_keys(root: &mut Section<'_>, m: &mut Mistakes<'_>) -> Option<KeyFormats> {
    let mut section = root.section("api_keys", m);
    if !section.is_present() {
        return None;
    }
    let public = section.parsed("public", m, SecretFormat::parse);
    let secret = section.parsed("secret", m, SecretFormat::parse);
    for key in ["public", "secret"] {
        if section.get(key).is_none() {
            m.add(&section.span, format!("api_keys.{key} is needed"));
        }
    }
    section.finish(m);
    Some(KeyFormats {
        public: public?,
        secret: secret?,
    })
}
