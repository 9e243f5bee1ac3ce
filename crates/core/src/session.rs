//! Sessions: people at the pages. The code of a link opens one, once; from then on its cookie does.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::Audited;
use crate::tenant::Mode;
use crate::{Id, Timestamp, id};

/// Somebody at the pages, or the link that lets them in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub id: Id<id::Session>,
    pub holder: Holder,
    /// SHA-256 of what opens it: its link's code until that is used, its cookie's token from then on. 32 random
    /// bytes need no slow hash.
    pub hash: [u8; 32],
    pub created_at: Timestamp,
    /// When its link was used; none until then.
    pub opened_at: Option<Timestamp>,
    /// The link and what it opens end then, whatever is done with them.
    pub expires_at: Timestamp,
}

/// As whom somebody is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// May do what the key may, as long as the key may.
    Key(Id<id::ApiKey>),
    /// A user of the console.
    User(Id<id::User>),
    /// A customer, whom the product sent.
    Portal(Portal),
}

/// What a customer may see and do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portal {
    pub application: Id<id::Application>,
    pub tenant: Id<id::Tenant>,
    pub mode: Mode,
    pub terms: PortalTerms,
}

/// What the product says of a customer's visit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortalTerms {
    /// Who it is, by the product's word: for the audit log.
    pub name: Option<String>,
    /// Looks at everything and changes nothing.
    pub read_only: bool,
    /// Where "back" leads.
    pub return_url: Option<String>,
    /// Origins of the product's pages that may have the portal in a frame.
    pub frame_origins: Vec<String>,
    /// A user of the console who looks at what the customer sees: it ends with what they may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Id<id::User>>,
    /// When they had chosen the password that they had then, in microseconds since 1970: it ends with that too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_since: Option<i64>,
}

impl Audited for Session {
    fn noun(&self) -> &'static str {
        match self.holder {
            Holder::Key(_) | Holder::User(_) => "session",
            Holder::Portal(_) => "portal_link",
        }
    }
    fn application(&self) -> Option<Id<id::Application>> {
        match &self.holder {
            Holder::Key(_) | Holder::User(_) => None,
            Holder::Portal(portal) => Some(portal.application),
        }
    }
    fn tenant(&self) -> Option<Id<id::Tenant>> {
        match &self.holder {
            Holder::Key(_) | Holder::User(_) => None,
            Holder::Portal(portal) => Some(portal.tenant),
        }
    }
    fn subject(&self) -> String {
        self.id.to_string()
    }
    fn describe(&self) -> Value {
        let opened = self.opened_at.is_some();
        match &self.holder {
            Holder::Key(key) => {
                json!({ "key": key, "opened": opened, "expiresAt": self.expires_at })
            }
            Holder::User(user) => {
                json!({ "user": user, "opened": opened, "expiresAt": self.expires_at })
            }
            Holder::Portal(portal) => json!({
                "mode": portal.mode, "terms": portal.terms, "opened": opened, "expiresAt": self.expires_at,
            }),
        }
    }
}
