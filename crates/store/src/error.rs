//! Why a store operation failed.

use crate::BoxError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It is not there.
    #[error("{entity:?} not found")]
    NotFound { entity: Entity },
    /// The write would break a rule that the caller can understand.
    #[error("conflict: {rule:?}")]
    Conflict { rule: Rule },
    /// The page's cursor was not made by this query.
    #[error("bad cursor")]
    BadCursor,
    /// Reading it would take longer than the store lets anybody read: ask for less at once.
    #[error("read takes too long")]
    TooLong,
    /// There is no room: nothing was written; it may be tried again when there is.
    #[error("no room left on the store's disk")]
    Full,
    /// As many changes of this account wait as may: nothing was written; it may be tried again in a moment.
    #[error("too many changes of this account wait")]
    Busy,
    /// The store is not where it was: nothing is read or written until it is back.
    #[error("{detail}")]
    Unavailable { detail: String },
    /// Nothing was written: it is safe to do the operation again.
    #[error("write aborted")]
    Aborted {
        #[source]
        source: BoxError,
    },
    /// The write may or may not have happened: only an idempotent operation may be repeated.
    #[error("write ended with an unknown outcome")]
    OutcomeUnknown {
        #[source]
        source: BoxError,
    },
    /// What is stored cannot be understood.
    #[error("stored data cannot be understood: {place}")]
    Corrupt {
        /// Table, column and row.
        place: String,
        #[source]
        source: BoxError,
    },
}

impl StoreError {
    pub fn not_found(entity: Entity) -> Self {
        Self::NotFound { entity }
    }

    pub fn conflict(rule: Rule) -> Self {
        Self::Conflict { rule }
    }

    pub fn aborted(source: impl Into<BoxError>) -> Self {
        Self::Aborted {
            source: source.into(),
        }
    }

    /// The same failure, for everything that was asked together: a source is one error's alone, the others get its text.
    pub fn copied(&self) -> Self {
        let text = |source: &BoxError| -> BoxError { source.to_string().into() };
        match self {
            Self::NotFound { entity } => Self::NotFound { entity: *entity },
            Self::Conflict { rule } => Self::Conflict { rule: *rule },
            Self::BadCursor => Self::BadCursor,
            Self::TooLong => Self::TooLong,
            Self::Full => Self::Full,
            Self::Busy => Self::Busy,
            Self::Unavailable { detail } => Self::Unavailable {
                detail: detail.clone(),
            },
            Self::Aborted { source } => Self::Aborted {
                source: text(source),
            },
            Self::OutcomeUnknown { source } => Self::OutcomeUnknown {
                source: text(source),
            },
            Self::Corrupt { place, source } => Self::Corrupt {
                place: place.clone(),
                source: text(source),
            },
        }
    }

    /// Whether what is stored does not read: asked again, it is the same.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entity {
    ApiKey,
    Application,
    Delivery,
    Endpoint,
    Event,
    EventType,
    Session,
    Task,
    Tenant,
    User,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A name or external id is in use.
    NameTaken,
    /// The endpoint has as many headers of its own as one may have.
    HeadersMax,
    /// The tenant has as many endpoints as its profile allows.
    EndpointsMax,
    /// The idempotency key was used with another body.
    IdempotencyKeyReused,
    /// The delivery is waiting for an attempt already, or had one since it was looked at.
    DeliveryPending,
    /// The endpoint has got the event, or is getting it.
    DeliveryExists,
    /// The endpoint is disabled or deleted.
    EndpointDisabled,
    /// Nobody could manage the server any more.
    LastRootKey,
    /// The delivery's `deliverBefore` has passed.
    DeliveryExpired,
    /// The delivery has as many attempts as one may have.
    AttemptsMax,
    /// The event's data was deleted: there is nothing to send.
    ContentDeleted,
    /// Somebody else has changed the password meanwhile.
    PasswordChanged,
    /// There are as many users as there may be.
    UsersMax,
    /// The application has as many event types as one may have.
    EventTypesMax,
    /// The owner has as many keys as one may have.
    KeysMax,
    /// The account has stored as much of late as is left for everybody.
    ShareStored,
    /// The application has tenants, whose secrets have the form of its profile.
    ProfileInUse,
    /// Somebody else has changed it since it was looked at.
    ChangedMeanwhile,
}
