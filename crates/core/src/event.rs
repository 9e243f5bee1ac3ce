//! What a product published. Immutable.

use std::sync::Arc;

use bytes::Bytes;

use crate::tenant::Mode;
use crate::trace::TraceParent;
use crate::{Id, Timestamp, id};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: Id<id::Event>,
    pub application: Id<id::Application>,
    pub tenant: Id<id::Tenant>,
    pub event_type: Arc<str>,
    /// The published JSON, byte for byte; empty where it was deleted.
    pub data: Bytes,
    /// What the product says about the event beside its data: JSON, byte for byte.
    pub meta: Option<Bytes>,
    pub mode: Mode,
    /// When it happened, by the product's word.
    pub occurred_at: Timestamp,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// Events with one key reach a key-ordered endpoint one after the other.
    pub ordering_key: Option<String>,
    /// After this time no attempt starts.
    pub deliver_before: Option<Timestamp>,
    /// The trace that its publish belongs to.
    pub traceparent: Option<TraceParent>,
}

/// An event without its data, for lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSummary {
    pub id: Id<id::Event>,
    pub application: Id<id::Application>,
    pub tenant: Id<id::Tenant>,
    pub event_type: Arc<str>,
    pub meta: Option<Bytes>,
    pub mode: Mode,
    pub occurred_at: Timestamp,
    pub created_at: Timestamp,
    pub ordering_key: Option<String>,
    pub deliver_before: Option<Timestamp>,
    pub traceparent: Option<TraceParent>,
}

impl From<&Event> for EventSummary {
    fn from(event: &Event) -> Self {
        Self {
            id: event.id,
            application: event.application,
            tenant: event.tenant,
            event_type: event.event_type.clone(),
            meta: event.meta.clone(),
            mode: event.mode,
            occurred_at: event.occurred_at,
            created_at: event.created_at,
            ordering_key: event.ordering_key.clone(),
            deliver_before: event.deliver_before,
            traceparent: event.traceparent,
        }
    }
}

impl Event {
    /// False where its data was deleted: published data is JSON, and so is never empty.
    pub fn has_content(&self) -> bool {
        !self.data.is_empty()
    }

    /// Bytes of its payload: what bounds on memory count.
    pub fn payload_bytes(&self) -> usize {
        let meta = self.meta.as_ref().map_or(0, Bytes::len);
        let key = self.ordering_key.as_ref().map_or(0, String::len);
        self.data.len() + meta + key
    }
}
