//! Long work that the store remembers, so that it goes on after a restart.

use postrider_core::{Id, Timestamp, id};

/// Work that goes on when its request has been answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub id: Id<id::Task>,
    pub kind: TaskKind,
    pub application: Id<id::Application>,
    /// None where it is the whole application's.
    pub tenant: Option<Id<id::Tenant>>,
    /// What to do, as JSON that only its owner reads.
    pub request: String,
    pub state: TaskState,
    /// How many there are to do; none until they are counted.
    pub total: Option<u64>,
    pub done: u64,
    pub skipped: u64,
    /// Where it goes on.
    pub cursor: Option<String>,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// Many deliveries again.
    Replay,
    /// All that a deleted tenant or application had.
    Deletion,
}

/// Whose things are erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Tenant(Id<id::Tenant>),
    Application(Id<id::Application>),
}

/// A piece of what was a deleted owner's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erased {
    /// Endpoints that ended: their lanes have to hear of it.
    pub closed: Vec<Id<id::Endpoint>>,
    /// Rows that are gone.
    pub rows: u64,
    /// Nothing is left.
    pub done: bool,
}

impl Erased {
    /// Endpoints that ended, and what they had is left.
    pub fn closing(closed: Vec<Id<id::Endpoint>>) -> Self {
        Self {
            closed,
            rows: 0,
            done: false,
        }
    }

    /// Some rows, and there may be more.
    pub fn of(rows: usize) -> Self {
        Self {
            closed: Vec::new(),
            rows: rows as u64,
            done: false,
        }
    }
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
