//! Templates: static bytes with typed holes, compiled once.

use crate::profile::MessageScope;

/// A value that a template asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hole {
    EventType,
    EventTime,
    EventUnix,
    /// The published bytes. Only in bodies.
    EventData,
    /// The part of the data that a distribution's owner chose. Only in bodies of distributions.
    EventDesigned,
    /// What the product says about the event beside its data: JSON, or null. Only in bodies.
    EventMeta,
    EventId,
    MessageId,
    MessageTime,
    EndpointId,
    EndpointUrl,
    /// What the owner of a distribution typed. Only in bodies of distributions.
    EndpointEventName,
    /// The public id of the API key that owns the endpoint; empty without one.
    KeyId,
    TenantId,
    AttemptTime,
    AttemptUnix,
    AttemptNumber,
    ModeLabel,
    ModeLive,
    /// Postrider's version.
    Version,
    /// The rendered body. Only in what is signed.
    Body,
    /// The encoded signature. Only in a signature's `each`.
    Sig,
}

/// What a rendering depends on, from wide to narrow: it must be made again for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RenderScope {
    Event,
    Delivery,
    Attempt,
}

const HOLES: &[(&str, Hole)] = &[
    ("event.type", Hole::EventType),
    ("event.time", Hole::EventTime),
    ("event.unix", Hole::EventUnix),
    ("event.data", Hole::EventData),
    ("event.designed", Hole::EventDesigned),
    ("event.meta", Hole::EventMeta),
    ("event.id", Hole::EventId),
    ("message.id", Hole::MessageId),
    ("message.time", Hole::MessageTime),
    ("endpoint.id", Hole::EndpointId),
    ("endpoint.url", Hole::EndpointUrl),
    ("endpoint.event_name", Hole::EndpointEventName),
    ("key.id", Hole::KeyId),
    ("tenant.id", Hole::TenantId),
    ("attempt.time", Hole::AttemptTime),
    ("attempt.unix", Hole::AttemptUnix),
    ("attempt.number", Hole::AttemptNumber),
    ("mode.label", Hole::ModeLabel),
    ("mode.live", Hole::ModeLive),
    ("version", Hole::Version),
    ("body", Hole::Body),
    ("sig", Hole::Sig),
];

impl Hole {
    /// Its name in a template.
    pub fn name(self) -> &'static str {
        let known = HOLES.iter().find(|(_, hole)| *hole == self);
        known.map_or("", |(name, _)| name)
    }

    fn parse(name: &str) -> Result<Self, String> {
        HOLES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, hole)| *hole)
            .ok_or_else(|| {
                let known: Vec<&str> = HOLES.iter().map(|(name, _)| *name).collect();
                format!(
                    "unknown placeholder {name:?}; known are {}",
                    known.join(", ")
                )
            })
    }

    pub fn scope(self, message: MessageScope) -> RenderScope {
        match self {
            Self::EventType
            | Self::EventTime
            | Self::EventUnix
            | Self::EventData
            | Self::EventMeta
            | Self::EventId => RenderScope::Event,
            Self::TenantId | Self::ModeLabel | Self::ModeLive | Self::Version | Self::Sig => {
                RenderScope::Event
            }
            Self::MessageId | Self::MessageTime => match message {
                MessageScope::Event => RenderScope::Event,
                MessageScope::Delivery => RenderScope::Delivery,
            },
            Self::EndpointId
            | Self::EndpointUrl
            | Self::EndpointEventName
            | Self::EventDesigned
            | Self::KeyId
            | Self::Body => RenderScope::Delivery,
            Self::AttemptTime | Self::AttemptUnix | Self::AttemptNumber => RenderScope::Attempt,
        }
    }

    /// Whether the value goes into JSON as it is instead of as a string.
    pub fn is_raw_json(self) -> bool {
        matches!(
            self,
            Self::EventData
                | Self::EventDesigned
                | Self::EventMeta
                | Self::EventUnix
                | Self::AttemptUnix
                | Self::AttemptNumber
                | Self::ModeLive
        )
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Static(Vec<u8>),
    Hole(Hole),
}

/// A compiled template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub(super) segments: Vec<Segment>,
}

impl Template {
    /// Compiles a JSON template, where `"$event.type"` stands for a value of its own type.
    ///
    /// # Errors
    /// A sentence: an unknown placeholder, or text that would not be JSON.
    pub fn json(text: &str) -> Result<Self, String> {
        let mut segments = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("\"$") {
            let after = &rest[start + 2..];
            let end = after.find('"').ok_or("a placeholder \"$… is not closed")?;
            let hole = Hole::parse(&after[..end])?;
            if matches!(hole, Hole::Body | Hole::Sig) {
                return Err("a body cannot contain itself or its signature".to_owned());
            }
            push_static(&mut segments, &rest[..start]);
            segments.push(Segment::Hole(hole));
            rest = &after[end + 1..];
        }
        push_static(&mut segments, rest);
        let template = Self { segments };
        template.must_be_json()?;
        Ok(template)
    }

    /// Compiles a text template, where `{event.type}` stands for text. There is no escape: no
    /// documented format needs a brace.
    ///
    /// # Errors
    /// A sentence: an unknown placeholder, one that is not text, or an unclosed brace.
    pub fn text(text: &str, allowed: &[Hole]) -> Result<Self, String> {
        let mut segments = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('{') {
            let after = &rest[start + 1..];
            let end = after.find('}').ok_or("a placeholder {… is not closed")?;
            let hole = Hole::parse(&after[..end])?;
            // Each of them has a value, or is a text, in one place only.
            let special = matches!(
                hole,
                Hole::Body
                    | Hole::Sig
                    | Hole::EventData
                    | Hole::EventDesigned
                    | Hole::EventMeta
                    | Hole::EndpointEventName
            );
            if special && !allowed.contains(&hole) {
                return Err(format!(
                    "the placeholder {{{}}} has no place here",
                    &after[..end]
                ));
            }
            push_static(&mut segments, &rest[..start]);
            segments.push(Segment::Hole(hole));
            rest = &after[end + 1..];
        }
        push_static(&mut segments, rest);
        Ok(Self { segments })
    }

    /// The narrowest scope among the holes.
    pub fn scope(&self, message: MessageScope) -> RenderScope {
        // Scopes are in their order: the narrowest is the greatest.
        self.holes()
            .map(|hole| hole.scope(message))
            .max()
            .unwrap_or(RenderScope::Event)
    }

    pub fn holes(&self) -> impl Iterator<Item = Hole> + '_ {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Hole(hole) => Some(*hole),
            Segment::Static(_) => None,
        })
    }

    /// Fills the holes. `fill` appends the value of a hole to the buffer.
    pub(super) fn render(&self, out: &mut Vec<u8>, mut fill: impl FnMut(Hole, &mut Vec<u8>)) {
        for segment in &self.segments {
            match segment {
                Segment::Static(bytes) => out.extend_from_slice(bytes),
                Segment::Hole(hole) => fill(*hole, out),
            }
        }
    }

    /// Reads the value of a template's only hole back from a text it rendered.
    pub(super) fn capture<'t>(&self, text: &'t str) -> Option<(Hole, &'t str)> {
        let (before, hole, after) = match self.segments.as_slice() {
            [Segment::Hole(hole)] => (&[][..], hole, &[][..]),
            [Segment::Static(before), Segment::Hole(hole)] => (&before[..], hole, &[][..]),
            [Segment::Hole(hole), Segment::Static(after)] => (&[][..], hole, &after[..]),
            [
                Segment::Static(before),
                Segment::Hole(hole),
                Segment::Static(after),
            ] => (&before[..], hole, &after[..]),
            // With several holes nobody can tell where the value of one ends.
            _ => return None,
        };
        let inner = text.strip_prefix(std::str::from_utf8(before).ok()?)?;
        Some((*hole, inner.strip_suffix(std::str::from_utf8(after).ok()?)?))
    }

    fn must_be_json(&self) -> Result<(), String> {
        let mut sample = Vec::new();
        // Every hole becomes one value of JSON, so null stands for all of them.
        self.render(&mut sample, |_, out| out.extend_from_slice(b"null"));
        crate::json::check_json(&sample).map_err(|error| format!("the template {error}"))
    }
}

fn push_static(segments: &mut Vec<Segment>, text: &str) {
    if !text.is_empty() {
        segments.push(Segment::Static(text.as_bytes().to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_follows_from_the_holes() {
        let scope = |text: &str, message| Template::json(text).unwrap().scope(message);
        assert_eq!(
            scope(
                r#"{"event":"$event.type","data":"$event.data"}"#,
                MessageScope::Event
            ),
            RenderScope::Event
        );
        assert_eq!(
            scope(r#"{"id":"$message.id"}"#, MessageScope::Event),
            RenderScope::Event
        );
        assert_eq!(
            scope(r#"{"id":"$message.id"}"#, MessageScope::Delivery),
            RenderScope::Delivery
        );
        assert_eq!(
            scope(
                r#"{"u":"$endpoint.url","s":"$attempt.time"}"#,
                MessageScope::Event
            ),
            RenderScope::Attempt
        );
    }

    #[test]
    fn mistakes_are_explained() {
        for (bad, part) in [
            (r#"{"a":"$event.typ"}"#, "unknown placeholder"),
            (r#"{"a":"$event.type}"#, "not closed"),
            (r#"{"a":"$event.type""#, "not JSON"),
            (r#"{"a":"$body"}"#, "cannot contain itself"),
            (r#"{"a":1,"a":2}"#, "twice"),
        ] {
            assert!(Template::json(bad).unwrap_err().contains(part), "{bad}");
        }
        assert!(Template::text("{body}", &[]).is_err());
        assert!(Template::text("{body}", &[Hole::Body]).is_ok());
        assert!(Template::text("{event.type", &[]).is_err());
    }
}
