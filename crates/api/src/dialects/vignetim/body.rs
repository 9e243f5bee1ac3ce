//! What a body asks for, and every mistake in it (V-37, V-38, V-45, V-50).

use http::StatusCode;
use postrider_core::endpoint::Endpoint;
use postrider_core::endpoint_url::InvalidUrl;
use postrider_core::limits::{DESCRIPTION_BYTES_MAX, SUBSCRIPTION_PATTERNS_MAX};
use postrider_core::profile::ApiSpec;
use serde_json::{Map, Value};

use super::refusal::{Message, Refusal};
use super::signed::Partner;
use crate::Api;
use crate::request::well_formed;

/// What a body asks for; what it does not name is none.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) url: Option<String>,
    pub(super) events: Option<Vec<String>>,
    pub(super) description: Option<Option<String>>,
    pub(super) active: Option<bool>,
}

/// Reads a body and tells every mistake in it; `changed` is what it is to change, none where it makes one.
pub(super) async fn fields(
    api: &Api,
    partner: &Partner,
    changed: Option<&Endpoint>,
) -> Result<Fields, Refusal> {
    let creating = changed.is_none();
    let spec = partner.spec();
    if let Err(error) = well_formed(&partner.body) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, error.detail));
    }
    let Ok(Value::Object(body)) = serde_json::from_slice::<Value>(&partner.body) else {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            spec.text("body_object"),
        ));
    };
    let mut mistakes = Vec::new();
    let mut fields = Fields::default();
    unknown_properties(spec, &body, creating, &mut mistakes);
    match body.get("url") {
        None if !creating => {}
        None => mistakes.push(spec.text("url_required").to_owned()),
        Some(Value::String(url)) => match api.service.check_url(&partner.current.profile, url) {
            Ok(()) => fields.url = Some(url.clone()),
            Err(error) => mistakes.push(url_mistake(spec, &error)),
        },
        Some(_) => mistakes.push(spec.text("url_invalid").to_owned()),
    }
    match body.get("events") {
        None if !creating => {}
        None => mistakes.push(spec.text("events_required").to_owned()),
        Some(events) => match event_patterns(api, partner, events, changed).await? {
            Ok(patterns) => fields.events = Some(patterns),
            Err(mistake) => mistakes.push(mistake.to_owned()),
        },
    }
    match body.get("description") {
        None => {}
        // It takes the description away; what is not named stays (V-50).
        Some(Value::Null) => fields.description = Some(None),
        Some(Value::String(text)) if is_description(text) => {
            fields.description = Some(Some(text.clone()))
        }
        Some(_) => mistakes.push(spec.text("description_text").to_owned()),
    }
    // While creating it is an unknown property, and is told as one above.
    match body.get("active").filter(|_| !creating) {
        None => {}
        Some(Value::Bool(active)) => fields.active = Some(*active),
        Some(_) => mistakes.push(spec.text("active_boolean").to_owned()),
    }
    if mistakes.is_empty() {
        Ok(fields)
    } else {
        Err(Refusal {
            status: StatusCode::BAD_REQUEST,
            message: Message::Many(mistakes),
        })
    }
}

fn is_description(text: &str) -> bool {
    let is_line = |c: char| matches!(c, '\n' | '\r' | '\t');
    text.len() <= DESCRIPTION_BYTES_MAX && text.chars().all(|c| is_line(c) || !c.is_control())
}

fn unknown_properties(
    spec: &ApiSpec,
    body: &Map<String, Value>,
    creating: bool,
    mistakes: &mut Vec<String>,
) {
    for name in body.keys() {
        let known = matches!(name.as_str(), "url" | "events" | "description")
            || (!creating && name == "active");
        if !known {
            mistakes.push(spec.text("unknown_property").replace("{name}", name));
        }
    }
}

fn url_mistake(spec: &ApiSpec, error: &InvalidUrl) -> String {
    let name = match error {
        InvalidUrl::HttpsOnly | InvalidUrl::Scheme => "url_https",
        InvalidUrl::Localhost | InvalidUrl::Address(_) => "url_private",
        InvalidUrl::TooLong
        | InvalidUrl::NotAUrl
        | InvalidUrl::Host
        | InvalidUrl::Port(_)
        | InvalidUrl::Credentials => "url_invalid",
    };
    spec.text(name).to_owned()
}

/// What it subscribes to, or what is wrong with it.
async fn event_patterns<'p>(
    api: &Api,
    partner: &'p Partner,
    events: &Value,
    changed: Option<&Endpoint>,
) -> Result<Result<Vec<String>, &'p str>, Refusal> {
    let spec = partner.spec();
    let Some(list) = events.as_array().filter(|list| !list.is_empty()) else {
        return Ok(Err(spec.text("events_required")));
    };
    let texts = list.iter().map(|item| item.as_str().map(str::to_owned));
    let Some(texts) = texts.collect::<Option<Vec<String>>>() else {
        return Ok(Err(spec.text("events_each")));
    };
    let profile = &partner.current.profile;
    let has = changed.map(|endpoint| &endpoint.subscription);
    let unknown = api
        .service
        .unknown_type(profile, partner.tenant, &texts, has);
    let unknown = unknown
        .await
        .map_err(|error| Refusal::from_service(spec, &error))?;
    if texts.len() > SUBSCRIPTION_PATTERNS_MAX || unknown.is_some() {
        return Ok(Err(spec.text("events_unknown")));
    }
    Ok(Ok(texts))
}
