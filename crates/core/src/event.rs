//! What a product published. Immutable.

use std::sync::Arc;

use bytes::Bytes;

use crate::tenant::Mode;
use crate::{Id, Timestamp, id};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: Id<id::Event>,
    pub application: Id<id::Application>,
    pub tenant: Id<id::Tenant>,
    pub event_type: Arc<str>,
    /// The published JSON, byte for byte.
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
}
