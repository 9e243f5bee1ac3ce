//! What people are told of, and what every store tells of a failure in the same words.

use async_trait::async_trait;
use postrider_core::attempt::{Attempt, Outcome};
use postrider_core::notice::{Notice, NoticeClass, NotificationSettings};
use postrider_core::tenant::{ApplicationSettings, Mode, TenantSettings};
use postrider_core::{Id, Timestamp, id};

use crate::{NoticeFilter, Page, PageRequest, RecordAttempt, StoreError};

/// What people are told of.
#[async_trait]
pub trait Notices: Send + Sync + 'static {
    /// Newest first.
    async fn list_notices(
        &self,
        filter: NoticeFilter,
        page: PageRequest,
    ) -> Result<Page<Notice>, StoreError>;

    /// Marks a tenant's notices, of one mode or both, up to and including `last` as read; returns
    /// how many were not. It waits on somebody's account ([`Actor::account`](postrider_core::audit::Actor)).
    async fn read_notices(
        &self,
        tenant: Id<id::Tenant>,
        mode: Option<Mode>,
        last: Id<id::Notice>,
        now: Timestamp,
        account: u128,
    ) -> Result<u32, StoreError>;

    /// Everybody for whom a notice waits to be mailed, with the time of the oldest.
    async fn mail_audiences(&self) -> Result<Vec<(MailAudience, Timestamp)>, StoreError>;

    /// The oldest notices that wait. Those that do not read wait no more: nobody can be told of them.
    async fn due_notices(&self, due: DueNotices, limit: u32) -> Result<Vec<Notice>, StoreError>;

    /// They wait for the channel no more.
    async fn settle_notices(
        &self,
        channel: NoticeChannel,
        ids: Vec<Id<id::Notice>>,
    ) -> Result<(), StoreError>;
}

/// Who gets mail about one kind of endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MailAudience {
    pub tenant: Id<id::Tenant>,
    pub class: NoticeClass,
}

/// Notices that wait, in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DueNotices {
    Mail(MailAudience),
    /// Those behind this one; none begins with the first.
    Publish {
        after: Option<Id<id::Notice>>,
    },
}

impl DueNotices {
    pub fn channel(self) -> NoticeChannel {
        match self {
            Self::Mail(_) => NoticeChannel::Mail,
            Self::Publish { .. } => NoticeChannel::Publish,
        }
    }
}

/// A way in which notices leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeChannel {
    Mail,
    /// As an operational webhook.
    Publish,
}

/// What a notice tells of a delivery.
#[derive(Debug, Clone)]
pub struct Failure {
    pub endpoint: Id<id::Endpoint>,
    pub delivery: Id<id::Delivery>,
    pub url: String,
    pub attempts: u32,
    pub error: String,
}

impl From<&RecordAttempt> for Failure {
    fn from(record: &RecordAttempt) -> Self {
        Self {
            endpoint: record.endpoint,
            delivery: record.delivery,
            url: record.attempt.url.clone(),
            attempts: record.attempt.number,
            error: failure_text(&record.attempt),
        }
    }
}

/// What is told of a delivery whose time ran out before an attempt.
pub const EXPIRED_TEXT: &str = "its deliverBefore passed";

/// What is told of a delivery that waited when its endpoint gave out.
pub(crate) fn gave_out_text(class: NoticeClass) -> &'static str {
    match class {
        NoticeClass::Webhooks => "its webhook was disabled while it waited",
        NoticeClass::Distributions => "its distribution was paused while it waited",
    }
}

/// How an attempt ended, in a few words.
pub fn failure_text(attempt: &Attempt) -> String {
    match &attempt.outcome {
        Outcome::Answered { status, .. } => format!("answered {status}"),
        Outcome::Unreachable { reason, detail } => format!("{}: {detail}", reason.as_str()),
    }
}

/// Which ways the notices of one tenant take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ways {
    webhooks: (bool, bool),
    distributions: (bool, bool),
    pub publish: bool,
}

impl Ways {
    pub fn new(application: &ApplicationSettings, tenant: &TenantSettings) -> Self {
        let settings: &NotificationSettings = &tenant.notifications;
        let of = |class| {
            let channels = settings.of(class);
            (channels.mails(), channels.in_app)
        };
        Self {
            webhooks: of(NoticeClass::Webhooks),
            distributions: of(NoticeClass::Distributions),
            publish: application.operations_tenant.is_some(),
        }
    }

    /// Whether an application's tenants have other ways after a change of its settings.
    pub fn are_others(before: &ApplicationSettings, after: &ApplicationSettings) -> bool {
        let of = |settings| Self::new(settings, &TenantSettings::default());
        of(before) != of(after)
    }

    fn of(self, class: NoticeClass) -> (bool, bool) {
        match class {
            NoticeClass::Webhooks => self.webhooks,
            NoticeClass::Distributions => self.distributions,
        }
    }

    pub fn mail(self, class: NoticeClass) -> bool {
        self.of(class).0
    }

    pub fn in_app(self, class: NoticeClass) -> bool {
        self.of(class).1
    }

    /// Whether anybody wants to hear of this class.
    pub fn any(self, class: NoticeClass) -> bool {
        self.mail(class) || self.in_app(class) || self.publish
    }
}
