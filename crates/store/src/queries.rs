//! What is asked of a store, and the pages it answers with.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use postrider_core::attempt::{Outcome, UnreachableReason};
use postrider_core::delivery::{DeliveryState, ProfileVersion};
use postrider_core::endpoint::Endpoint;
use postrider_core::tenant::{Application, Mode, Tenant};
use postrider_core::{Id, Timestamp, id};

use crate::{StoreError, TaskKind};

/// A request for one page: `limit` rows after `cursor`.
#[derive(Debug, Clone, Copy)]
pub struct PageRequest {
    pub limit: usize,
    pub cursor: Option<Cursor>,
}

impl PageRequest {
    pub const fn first(limit: usize) -> Self {
        Self {
            limit,
            cursor: None,
        }
    }
}

/// Rows, and where the next page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub rows: Vec<T>,
    pub next: Option<Cursor>,
}

/// A place in a list: the id of the last row seen, and which list it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// A digest of the query: a cursor of another query is refused.
    pub query: u32,
    pub after: u128,
}

impl Cursor {
    /// In place of a query's digest: a door made the cursor of an id that it was given.
    const ANY: u32 = 0;

    /// The place behind a row, in whatever list the row is.
    pub fn behind<K>(row: Id<K>) -> Self {
        Self {
            query: Self::ANY,
            after: row.as_u128(),
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:032x}", self.query, self.after)
    }
}

/// The text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a cursor that an earlier page gave")]
pub struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        // Byte by byte: `from_str_radix` takes a sign and capitals too, and the cut at 8 needs ASCII.
        if text.len() != 40
            || !text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(InvalidCursor);
        }
        let query = u32::from_str_radix(&text[..8], 16).map_err(|_| InvalidCursor)?;
        let after = u128::from_str_radix(&text[8..], 16).map_err(|_| InvalidCursor)?;
        // Only a door makes such a cursor; a caller could take it from one list to any other.
        if query == Self::ANY {
            return Err(InvalidCursor);
        }
        Ok(Self { query, after })
    }
}

/// FNV-1a over the text of a query.
pub fn query_digest(query: &impl fmt::Debug) -> u32 {
    let digest = format!("{query:?}")
        .bytes()
        .fold(0x811c_9dc5, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
    // No query's digest may be the one that stands for any.
    digest.max(Cursor::ANY + 1)
}

impl PageRequest {
    /// The id after which the page begins.
    ///
    /// # Errors
    /// `BadCursor` when the cursor was made by another query.
    pub fn after(&self, query: u32) -> Result<Option<u128>, StoreError> {
        match self.cursor {
            Some(cursor) if cursor.query != query && cursor.query != Cursor::ANY => {
                Err(StoreError::BadCursor)
            }
            cursor => Ok(cursor.map(|cursor| cursor.after)),
        }
    }
}

impl<T> Page<T> {
    /// Makes a page from up to `limit + 1` rows: one row more tells that there is a next page.
    pub fn cut(mut rows: Vec<T>, limit: usize, query: u32, id: impl Fn(&T) -> u128) -> Self {
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| Cursor {
            query,
            after: id(row),
        });
        Self { rows, next }
    }

    /// Ends the page where its rows have `bytes_max` together; it always has one.
    #[must_use]
    pub fn within(
        mut self,
        bytes_max: usize,
        query: u32,
        bytes: impl Fn(&T) -> usize,
        id: impl Fn(&T) -> u128,
    ) -> Self {
        let mut sum = 0;
        let kept = self.rows.iter().take_while(|row| {
            // It is kept however long it is, or the list could not go on.
            let is_first = sum == 0;
            sum += bytes(row);
            is_first || sum <= bytes_max
        });
        let kept = kept.count();
        if kept < self.rows.len() {
            self.rows.truncate(kept);
            self.next = self.rows.last().map(|row| Cursor {
                query,
                after: id(row),
            });
        }
        self
    }

    /// Of a list that looked no further than at the row `last`: there is more behind it.
    #[must_use]
    pub fn or_next(mut self, query: u32, last: Option<u128>) -> Self {
        let more = last.map(|after| Cursor { query, after });
        // Where the page has a next, that is nearer: it ended before the look did.
        self.next = self.next.or(more);
        self
    }
}

#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    pub application: Option<Id<id::Application>>,
    pub tenant: Option<Id<id::Tenant>>,
    pub event_type: Option<String>,
    pub mode: Option<Mode>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

/// Deliveries by any column; none means any. Times are of creation; `since` is inside, `until` is not.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    pub application: Option<Id<id::Application>>,
    pub tenant: Option<Id<id::Tenant>>,
    pub endpoint: Option<Id<id::Endpoint>>,
    pub event: Option<Id<id::Event>>,
    pub event_type: Option<String>,
    pub mode: Option<Mode>,
    pub state: Option<StatePattern>,
    pub answer: Option<LastAnswer>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Otherwise the newest come first.
    pub oldest_first: bool,
}

/// What an endpoint may have missed: events that would go to it if they were published now, and of which
/// it has no delivery, or one that was skipped.
#[derive(Debug, Clone)]
pub struct MissedQuery {
    pub endpoint: Id<id::Endpoint>,
    /// Where to go on: the last event that an earlier page looked at.
    pub after: Option<Id<id::Event>>,
    pub since: Option<Timestamp>,
    pub until: Timestamp,
    /// Events to look at.
    pub rows: u32,
}

/// The missed ones among the events that a page looked at, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MissedPage {
    pub events: Vec<Id<id::Event>>,
    /// The last event that it looked at, if there are more.
    pub next: Option<Id<id::Event>>,
}

/// How many rows a part of a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    pub rows: u64,
    pub next: Option<Cursor>,
}

/// A state without its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatePattern {
    Pending,
    Delivered,
    Failed,
    Cancelled,
    Skipped,
    /// Failed or cancelled.
    Unsuccessful,
}

impl StatePattern {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "pending" => Some(Self::Pending),
            "delivered" => Some(Self::Delivered),
            "failed" => Some(Self::Failed),
            "cancelled" => Some(Self::Cancelled),
            "skipped" => Some(Self::Skipped),
            _ => None,
        }
    }

    pub fn matches(self, state: DeliveryState) -> bool {
        matches!(
            (self, state),
            (Self::Pending, DeliveryState::Pending)
                | (Self::Delivered, DeliveryState::Delivered)
                | (Self::Failed, DeliveryState::Failed(_))
                | (
                    Self::Cancelled | Self::Unsuccessful,
                    DeliveryState::Cancelled
                )
                | (Self::Unsuccessful, DeliveryState::Failed(_))
                | (Self::Skipped, DeliveryState::Skipped)
        )
    }
}

/// How the last attempt of a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastAnswer {
    /// With a status of this class: 4 is 4xx.
    Class(u16),
    /// Without an answer.
    None,
    /// Without one, for this reason.
    Because(UnreachableReason),
}

impl LastAnswer {
    /// Reads `4xx`, `none`, or a reason such as `timeout`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "2xx" => Some(Self::Class(2)),
            "3xx" => Some(Self::Class(3)),
            "4xx" => Some(Self::Class(4)),
            "5xx" => Some(Self::Class(5)),
            "none" => Some(Self::None),
            reason => UnreachableReason::parse(reason).map(Self::Because),
        }
    }

    pub fn matches(self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Self::Class(class), Outcome::Answered { status, .. }) => status / 100 == class,
            (Self::None, Outcome::Unreachable { .. }) => true,
            (Self::Because(wanted), Outcome::Unreachable { reason, .. }) => *reason == wanted,
            (Self::None | Self::Because(_), Outcome::Answered { .. })
            | (Self::Class(_), Outcome::Unreachable { .. }) => false,
        }
    }
}

/// A page of a lane: pending deliveries whose place is from `from` to `until`, both included.
#[derive(Debug, Clone, Copy)]
pub struct LoadDue {
    pub endpoint: Id<id::Endpoint>,
    pub from: Timestamp,
    pub until: Timestamp,
    pub limit: u32,
    /// Bytes of payload: the page ends with the delivery that reaches them.
    pub bytes: usize,
}

impl LoadDue {
    /// All that waits for an endpoint.
    pub fn all(endpoint: Id<id::Endpoint>) -> Self {
        Self {
            endpoint,
            from: Timestamp::from_micros(i64::MIN),
            until: Timestamp::MAX,
            limit: u32::MAX,
            bytes: usize::MAX,
        }
    }
}

/// The first rows of a lane.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DuePage {
    pub rows: Vec<crate::DueDelivery>,
    /// The place of the first pending delivery that is not among the rows.
    pub next: Option<Timestamp>,
}

/// An endpoint with pending deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneBacklog {
    pub endpoint: Id<id::Endpoint>,
    /// The place of its first pending delivery.
    pub first: Timestamp,
}

/// An endpoint with all that decides how it is sent to.
#[derive(Debug)]
pub struct LaneEndpoint {
    pub endpoint: Endpoint,
    /// It has a lane until the last of its deliveries has ended.
    pub is_deleted: bool,
    /// `NotFound` where it is deleted, which goes before its endpoints do; or it alone cannot be read. Many endpoints have
    /// the same.
    pub tenant: Result<Arc<Tenant>, StoreError>,
    /// The same.
    pub application: Result<Arc<Application>, StoreError>,
}

/// Which kind of endpoints a list holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointListing {
    Registered,
    Distributions,
}

/// Tenants of an application.
#[derive(Debug, Clone, Copy)]
pub struct TenantFilter {
    pub application: Id<id::Application>,
    /// Otherwise the newest come first.
    pub oldest_first: bool,
}

impl TenantFilter {
    /// All, the newest first.
    pub const fn of(application: Id<id::Application>) -> Self {
        Self {
            application,
            oldest_first: false,
        }
    }
}

/// Endpoints of a tenant that are not deleted; no mode means both.
#[derive(Debug, Clone, Copy)]
pub struct EndpointFilter {
    pub tenant: Id<id::Tenant>,
    pub listing: EndpointListing,
    pub mode: Option<Mode>,
    /// Otherwise the newest come first.
    pub oldest_first: bool,
}

/// Keys by their owner; none means any.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyFilter {
    pub application: Option<Id<id::Application>>,
    pub tenant: Option<Id<id::Tenant>>,
    pub mode: Option<Mode>,
}

/// Entries of the audit log; none means any.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub application: Option<Id<id::Application>>,
    pub tenant: Option<Id<id::Tenant>>,
    pub subject: Option<String>,
    pub action: Option<String>,
    pub key: Option<Id<id::ApiKey>>,
    pub user: Option<Id<id::User>>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

/// Notices; none means any. Of a tenant those that it wants to see in the application, of no tenant all, however they
/// are told.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoticeFilter {
    pub application: Option<Id<id::Application>>,
    pub tenant: Option<Id<id::Tenant>>,
    pub mode: Option<Mode>,
    pub unread: bool,
}

/// Tasks; none means any.
#[derive(Debug, Clone, Copy, Default)]
pub struct TaskFilter {
    pub application: Option<Id<id::Application>>,
    pub tenant: Option<Id<id::Tenant>>,
    pub kind: Option<TaskKind>,
}

/// One stored version of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileRecord {
    pub version: ProfileVersion,
    pub name: Arc<str>,
    pub source: Arc<str>,
}
