//! What a product has put into the store's database itself, in a transaction of its own.

use async_trait::async_trait;
use postrider_core::{Id, Timestamp, id};

use crate::StoreError;

/// An event that waits for a server to take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// Its place among them.
    pub number: i64,
    pub tenant: Id<id::Tenant>,
    /// The idempotency key under which it is published.
    pub key: String,
    /// As the API takes it.
    pub event: String,
    /// When the product put it there.
    pub created_at: Timestamp,
}

/// What waits and what was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutboxState {
    /// At most [`WAITING_COUNTED`].
    pub waiting: u64,
    /// At most [`WAITING_COUNTED`].
    pub refused: u64,
    /// When the first of what waits was put there.
    pub oldest: Option<Timestamp>,
}

/// More is not counted.
pub const WAITING_COUNTED: u64 = 100_000;

/// Events that come by the database.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Whether anybody can put something there.
    fn takes_submissions(&self) -> bool;

    /// Tenants of which something waits, behind one of them and without some, in an order of their own.
    async fn submitters(
        &self,
        after: Option<Id<id::Tenant>>,
        but: Vec<Id<id::Tenant>>,
        limit: u32,
    ) -> Result<Vec<Id<id::Tenant>>, StoreError>;

    /// The first of what waits of a tenant behind a number, in the order of their numbers: up to `limit`, and about `bytes`
    /// of events. What a transaction that is still open has put there is not among them, though its number may be smaller.
    async fn submissions(
        &self,
        tenant: Id<id::Tenant>,
        after: i64,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<Submission>, StoreError>;

    /// What was taken is an event now; what was refused never will be, and stays for somebody to look at.
    async fn settle_submissions(
        &self,
        taken: Vec<i64>,
        refused: Vec<(i64, String)>,
    ) -> Result<(), StoreError>;

    async fn outbox_state(&self) -> Result<OutboxState, StoreError>;
}
