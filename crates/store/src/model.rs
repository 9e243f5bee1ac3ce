//! Long work that the store remembers, so that it goes on after a restart.

use postrider_core::{Id, Timestamp, id};

/// A replay of many deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub id: Id<id::Task>,
    pub application: Id<id::Application>,
    pub tenant: Id<id::Tenant>,
    /// What to do, as JSON that only its owner reads.
    pub request: String,
    pub state: TaskState,
    pub done: u64,
    pub skipped: u64,
    /// Where it goes on.
    pub cursor: Option<String>,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskState {
    Running,
    Finished,
    /// Somebody stopped it.
    Cancelled,
    /// With a sentence for the reader.
    Failed(String),
}
