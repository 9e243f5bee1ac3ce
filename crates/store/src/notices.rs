//! What every store tells of a failure in the same words.

use postrider_core::attempt::{Attempt, Outcome};
use postrider_core::notice::{NoticeClass, NotificationSettings};
use postrider_core::tenant::{ApplicationSettings, TenantSettings};
use postrider_core::{Id, id};

use crate::RecordAttempt;

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
