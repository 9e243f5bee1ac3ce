//! Rendering: from an event, a delivery and an attempt to the bytes of a request.

use bytes::Bytes;

use crate::profile::{Hole, JsonStyle, MessageScope, Profile, Template};
use crate::tenant::Mode;
use crate::{Id, Timestamp, id};

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

    /// Renders the body. Equal for equal values of the holes in [`Profile::body_scope`].
    pub fn render_body(&self, context: &RenderContext<'_>) -> Bytes {
        let mut body = Vec::with_capacity(context.data.len() + 256);
        self.body
            .render(&mut body, |hole, out| self.fill_json(hole, context, out));
        if self.json == JsonStyle::EsCompact
            && let Ok(compact) = crate::json::es::compact(&body)
        {
            return Bytes::from(compact);
        }
        Bytes::from(body)
    }

    /// Renders the headers of a request with `body`, signed with every key that its signatures accept.
    pub fn render_headers<'k>(
        &self,
        context: &RenderContext<'_>,
        body: &[u8],
        keys: impl IntoIterator<Item = &'k super::SigningKey>,
    ) -> Vec<(String, String)> {
        let keys: Vec<&super::SigningKey> = keys.into_iter().collect();
        let mut headers = Vec::with_capacity(self.headers.len() + 4);
        headers.push(("Content-Type".to_owned(), self.content_type.clone()));
        for (name, template) in &self.headers {
            headers.push((name.clone(), self.render_text(template, context)));
        }
        headers.extend(self.sign(context, body, &keys));
        headers
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
            Hole::EventMeta => return out.extend_from_slice(context.meta.unwrap_or(b"null")),
            Hole::EventType => return out.extend_from_slice(context.event_type.as_bytes()),
            Hole::EndpointUrl => return out.extend_from_slice(context.endpoint_url.as_bytes()),
            Hole::EventTime => context.occurred_at.iso_ms(),
            Hole::EventUnix => context.occurred_at.as_unix().to_string(),
            Hole::EventId => context.event.to_string(),
            Hole::MessageId => self.message_id(context.event, context.delivery),
            Hole::MessageTime => match self.ids.message_scope {
                MessageScope::Event => context.event.created_at().iso_ms(),
                MessageScope::Delivery => context.delivery_created_at.iso_ms(),
            },
            Hole::EndpointId => self.ids.endpoint.render(context.endpoint),
            Hole::TenantId => match &self.ids.tenant {
                Some(format) => format.render(context.tenant),
                None => context.tenant.to_string(),
            },
            Hole::AttemptTime => context.attempt_at.iso_ms(),
            Hole::AttemptUnix => context.attempt_at.as_unix().to_string(),
            Hole::AttemptNumber => context.attempt_number.to_string(),
            Hole::ModeLabel => match context.mode {
                Mode::Live => self.modes.live.clone(),
                Mode::Test => self.modes.test.clone(),
            },
            Hole::ModeLive => (context.mode == Mode::Live).to_string(),
            Hole::Version => env!("CARGO_PKG_VERSION").to_owned(),
            // The signer fills these; a template elsewhere cannot have them.
            Hole::Body | Hole::Sig => String::new(),
        };
        out.extend_from_slice(text.as_bytes());
    }
}
