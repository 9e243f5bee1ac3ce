//! Rendering: from an event, a delivery and an attempt to the bytes of a request.

use bytes::Bytes;

use crate::distribution::Distribution;
use crate::json::es;
use crate::profile::{
    HeaderSpec, Hole, JsonStyle, MessageScope, Profile, SignatureSpec, SignedInput, Template,
};
use crate::tenant::{Mode, ModeNames};
use crate::trace::TraceParent;
use crate::{Id, Timestamp, id};

/// Before the name of an optional header in an application's settings: it is not sent, though it is by
/// default.
pub const LEFT_OUT: char = '-';

/// Everything a hole can ask for.
#[derive(Debug, Clone, Copy)]
pub struct RenderContext<'a> {
    pub event: Id<id::Event>,
    pub event_type: &'a str,
    pub occurred_at: Timestamp,
    pub data: &'a [u8],
    /// What the product says about the event beside its data, as JSON.
    pub meta: Option<&'a [u8]>,
    pub mode: Mode,
    pub tenant: Id<id::Tenant>,
    pub delivery: Id<id::Delivery>,
    pub delivery_created_at: Timestamp,
    pub endpoint: Id<id::Endpoint>,
    pub endpoint_url: &'a str,
    /// What a distribution's endpoint has beside an endpoint's own.
    pub distribution: Option<&'a Distribution>,
    /// The public id of the API key that owns the endpoint.
    pub key_id: Option<&'a str>,
    /// The endpoint wants a form, where the profile has one.
    pub form: bool,
    /// The optional headers to send; none sends those that are on by default.
    pub extra_headers: Option<&'a [String]>,
    /// The trace that the receiver is told of.
    pub traceparent: Option<TraceParent>,
    /// What its application calls the two modes.
    pub mode_names: Option<&'a ModeNames>,
    pub attempt_at: Timestamp,
    pub attempt_number: u32,
}

/// A request's body and headers, in the order they are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub body: Bytes,
    pub headers: Vec<(String, String)>,
}

impl Profile {
    /// The message id on the wire.
    pub fn message_id(&self, event: Id<id::Event>, delivery: Id<id::Delivery>) -> String {
        match self.ids.message_scope {
            MessageScope::Event => self.ids.message.render(event),
            MessageScope::Delivery => self.ids.message.render(delivery),
        }
    }

    /// Whether the data is parsed to be written or signed.
    pub fn parses(&self) -> bool {
        self.json == JsonStyle::EsCompact || self.signs_flat_forms()
    }

    /// Whether receivers sign a form of the body that may be very much longer than the body.
    pub fn signs_flat_forms(&self) -> bool {
        let flat = |spec: &SignatureSpec| matches!(spec.input, SignedInput::FlatKv(_));
        self.signatures.iter().any(flat)
    }

    /// Why a value cannot be carried: profiles whose receivers write JSON anew, or sign what they parsed,
    /// need values that every reader understands alike.
    pub fn unwritable(&self, json: &[u8]) -> Option<&'static str> {
        (self.parses() && es::parse(json).is_err()).then_some(
            "has half of a surrogate pair (\\ud800) or a number beyond 1.8e308; receivers of this profile parse what they verify, and could not",
        )
    }

    /// What a receiver of this profile reads otherwise than it was published, in a sentence: bodies that
    /// ECMAScript must be able to write again hold its numbers only.
    pub fn changed(&self, field: &str, json: &[u8]) -> Option<String> {
        let (text, sent) = match self.json {
            JsonStyle::EsCompact => es::changed_number(json)?,
            JsonStyle::Verbatim => return None,
        };
        Some(format!(
            "{field}: {text} has more digits than receivers in ECMAScript keep and is sent as {sent}; publish it as a string"
        ))
    }

    /// Renders the body. Equal for equal values of the holes in [`Profile::body_scope`].
    pub fn render_body(&self, context: &RenderContext<'_>) -> Bytes {
        let mut body = Vec::with_capacity(context.data.len() + 256);
        let template = match (context.distribution, &self.distribution) {
            (Some(distribution), Some(_)) if distribution.payload.raw => {
                body.extend_from_slice(&distribution.payload.design(context.data));
                None
            }
            (Some(_), Some(spec)) => Some(&spec.body),
            _ => Some(&self.body),
        };
        if let Some(template) = template {
            template.render(&mut body, |hole, out| self.fill_json(hole, context, out));
        }
        if self.json == JsonStyle::EsCompact
            // What ECMAScript cannot read is refused when it is published (`unwritable`); anything else goes
            // out as it is.
            && let Ok(compact) = es::compact(&body)
        {
            body = compact;
        }
        match &self.form_field {
            Some(field) if context.form => {
                // Nothing is lost: a template is text, and what was published was checked to be.
                let text = String::from_utf8_lossy(&body);
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.append_pair(field, &text);
                Bytes::from(form.finish())
            }
            _ => Bytes::from(body),
        }
    }

    /// Renders the headers of a request with `body`, signed with every key that its signatures accept.
    ///
    /// # Errors
    /// When the form that is signed would be too long, which [`Profile::check_signable`] tells before.
    pub fn render_headers<'k>(
        &self,
        context: &RenderContext<'_>,
        body: &[u8],
        keys: impl IntoIterator<Item = &'k super::SigningKey>,
    ) -> Result<Vec<(String, String)>, super::FormTooLong> {
        let keys: Vec<&super::SigningKey> = keys.into_iter().collect();
        let mut headers = Vec::with_capacity(self.headers.len() + 4);
        let content_type = if context.form && self.form_field.is_some() {
            "application/x-www-form-urlencoded".to_owned()
        } else {
            self.content_type.clone()
        };
        headers.push(("Content-Type".to_owned(), content_type));
        for header in self.headers.iter().filter(|header| header.is_sent(context)) {
            headers.push((
                header.name.clone(),
                self.render_text(&header.value, context),
            ));
        }
        headers.extend(self.sign(context, body, &keys)?);
        if let Some(traceparent) = context.traceparent {
            headers.push(("traceparent".to_owned(), traceparent.to_string()));
        }
        Ok(headers)
    }

    pub(super) fn render_text(&self, template: &Template, context: &RenderContext<'_>) -> String {
        let mut text = Vec::new();
        template.render(&mut text, |hole, out| self.fill_text(hole, context, out));
        String::from_utf8(text).unwrap_or_default()
    }

    fn fill_json(&self, hole: Hole, context: &RenderContext<'_>, out: &mut Vec<u8>) {
        if hole.is_raw_json() {
            self.fill_text(hole, context, out);
        } else {
            let mut text = Vec::new();
            self.fill_text(hole, context, &mut text);
            let text = String::from_utf8(text).unwrap_or_default();
            serde_json::to_writer(out, &text)
                .expect("a string is JSON and a vector takes every byte");
        }
    }

    pub(super) fn fill_text(&self, hole: Hole, context: &RenderContext<'_>, out: &mut Vec<u8>) {
        let text = match hole {
            Hole::EventData => return out.extend_from_slice(context.data),
            Hole::EventDesigned => {
                return match context.distribution {
                    Some(distribution) => {
                        out.extend_from_slice(&distribution.payload.design(context.data))
                    }
                    None => out.extend_from_slice(context.data),
                };
            }
            Hole::EventMeta => return out.extend_from_slice(context.meta.unwrap_or(b"null")),
            Hole::EventType => return out.extend_from_slice(context.event_type.as_bytes()),
            Hole::EndpointUrl => return out.extend_from_slice(context.endpoint_url.as_bytes()),
            Hole::EventTime => context.occurred_at.iso_ms(),
            Hole::EventUnix => context.occurred_at.as_unix().to_string(),
            Hole::EventId => context.event.to_string(),
            Hole::MessageId => self.message_id(context.event, context.delivery),
            Hole::MessageTime => match self.ids.message_scope {
                // The id has the time of acceptance; what happened may have been long before.
                MessageScope::Event => context.event.created_at().iso_ms(),
                MessageScope::Delivery => context.delivery_created_at.iso_ms(),
            },
            Hole::EndpointId => match (context.distribution, &self.distribution) {
                (Some(_), Some(spec)) => spec.id.render(context.endpoint),
                _ => self.ids.endpoint.render(context.endpoint),
            },
            Hole::EndpointEventName => context
                .distribution
                .map_or(context.event_type, |distribution| &distribution.event_name)
                .to_owned(),
            Hole::KeyId => context.key_id.unwrap_or_default().to_owned(),
            Hole::TenantId => match &self.ids.tenant {
                Some(format) => format.render(context.tenant),
                None => context.tenant.to_string(),
            },
            Hole::AttemptTime => context.attempt_at.iso_ms(),
            Hole::AttemptUnix => context.attempt_at.as_unix().to_string(),
            Hole::AttemptNumber => context.attempt_number.to_string(),
            Hole::ModeLabel => match (context.mode_names, context.mode) {
                (Some(names), Mode::Live) => names.live.clone(),
                (Some(names), Mode::Test) => names.test.clone(),
                (None, Mode::Live) => self.modes.live.clone(),
                (None, Mode::Test) => self.modes.test.clone(),
            },
            Hole::ModeLive => (context.mode == Mode::Live).to_string(),
            Hole::Version => env!("CARGO_PKG_VERSION").to_owned(),
            // The signer fills these; a template elsewhere cannot have them.
            Hole::Body | Hole::Sig => String::new(),
        };
        out.extend_from_slice(text.as_bytes());
    }
}

impl HeaderSpec {
    fn is_sent(&self, context: &RenderContext<'_>) -> bool {
        let Some(default) = self.extra else {
            return true;
        };
        let chosen = context.extra_headers.unwrap_or_default();
        let says = |name: &str| name.eq_ignore_ascii_case(&self.name);
        let left_out = |name: &String| name.strip_prefix(LEFT_OUT).is_some_and(says);
        (default || chosen.iter().any(|name| says(name))) && !chosen.iter().any(left_out)
    }
}
