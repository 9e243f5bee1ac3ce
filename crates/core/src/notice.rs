//! Notices: what somebody has to be told because a delivery or an endpoint gave out.
//!
//! A notice is written in the transaction of the record that caused it, so it exists exactly once.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::tenant::Mode;
use crate::{Id, Secret, Timestamp, id};

/// Where a tenant wants to hear of failures, by the kind of endpoint (`docs/systems.md`, F-27, F-28).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NotificationSettings {
    pub webhooks: Channels,
    pub distributions: Channels,
    /// Of the addresses, those that get nothing until somebody who reads them agrees.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unconfirmed: Vec<String>,
}

/// A question to a mail address: whether it wants a tenant's notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    pub tenant: Id<id::Tenant>,
    pub to: String,
    /// What confirms it.
    pub code: Secret,
    pub tenant_name: String,
    pub application_name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Channels {
    pub email: bool,
    pub in_app: bool,
    /// Who gets the mail.
    pub emails: Vec<String>,
}

impl Channels {
    pub fn mails(&self) -> bool {
        self.email && !self.emails.is_empty()
    }
}

impl NotificationSettings {
    pub fn of(&self, class: NoticeClass) -> &Channels {
        match class {
            NoticeClass::Webhooks => &self.webhooks,
            NoticeClass::Distributions => &self.distributions,
        }
    }

    /// Every address, once for each class that has it.
    pub fn emails(&self) -> impl Iterator<Item = &String> {
        self.webhooks
            .emails
            .iter()
            .chain(&self.distributions.emails)
    }

    /// Who gets mail of a class.
    pub fn recipients(&self, class: NoticeClass) -> Vec<String> {
        let channels = self.of(class);
        let wanted = channels.emails.iter().filter(|_| channels.email);
        let confirmed = wanted.filter(|email| !self.unconfirmed.contains(email));
        confirmed.cloned().collect()
    }
}

/// Which kind of endpoint a notice is about; each has its own settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum NoticeClass {
    Webhooks,
    Distributions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// A delivery failed for good.
    DeliveryFailed,
    /// An endpoint was disabled, or a distribution paused.
    EndpointDisabled,
}

impl NoticeKind {
    /// The type of the operational webhook that tells of it.
    pub fn event_type(self, class: NoticeClass) -> &'static str {
        match (self, class) {
            (Self::DeliveryFailed, _) => "delivery.failed",
            (Self::EndpointDisabled, NoticeClass::Webhooks) => "endpoint.disabled",
            (Self::EndpointDisabled, NoticeClass::Distributions) => "distribution.paused",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub id: Id<id::Notice>,
    pub application: Id<id::Application>,
    pub tenant: Id<id::Tenant>,
    pub class: NoticeClass,
    pub kind: NoticeKind,
    pub endpoint: Id<id::Endpoint>,
    /// The delivery that failed, and by doing so perhaps disabled the endpoint.
    pub delivery: Id<id::Delivery>,
    pub event_type: Arc<str>,
    /// The delivery's.
    pub mode: Mode,
    pub url: String,
    /// Attempts the delivery had.
    pub attempts: u32,
    /// How the last one ended, in a few words.
    pub error: String,
    pub at: Timestamp,
    pub in_app: bool,
    /// A mail about it is still to be sent.
    pub mail_due: bool,
    /// An operational webhook about it is still to be published.
    pub publish_due: bool,
    pub read_at: Option<Timestamp>,
}
