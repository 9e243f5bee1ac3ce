//! People of the console: each with a name, a password of their own and a role.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::audit::Audited;
use crate::{Id, Timestamp, id};

/// Somebody who works at the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub id: Id<id::User>,
    /// What they come in with: lower case, so that nobody is two people.
    pub name: String,
    pub role: Role,
    /// Confined to this application; none reaches everything.
    pub application: Option<Id<id::Application>>,
    /// None until they chose one.
    pub password: Option<Password>,
    /// While set, they cannot come in, and whoever was in is out.
    pub disabled_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl User {
    pub fn is_active(&self) -> bool {
        self.disabled_at.is_none()
    }

    /// When they chose the password that they have; none until they did.
    pub fn password_since(&self) -> Option<Timestamp> {
        self.password.as_ref().map(|password| password.since)
    }
}

/// What somebody may do within their reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Owner,
    /// Everything but who else may come in and what cannot be undone: users, the keys of products, the deletion of
    /// applications and tenants.
    Developer,
    /// Looks, and sees no secret.
    Viewer,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Owner, Self::Developer, Self::Viewer];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Developer => "developer",
            Self::Viewer => "viewer",
        }
    }

    pub fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// A password as it is kept: what verifies it, by a function that is slow on purpose.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    /// In the form of PHC strings: the function with its parameters, the salt and the hash.
    pub hash: String,
    /// When it was chosen.
    pub since: Timestamp,
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Password(***, {:?})", self.since)
    }
}

impl Audited for User {
    fn noun(&self) -> &'static str {
        "user"
    }
    fn application(&self) -> Option<Id<id::Application>> {
        self.application
    }
    fn tenant(&self) -> Option<Id<id::Tenant>> {
        None
    }
    fn subject(&self) -> String {
        self.id.to_string()
    }
    fn describe(&self) -> Value {
        json!({
            "name": self.name,
            "role": self.role,
            "application": self.application,
            "passwordSince": self.password_since(),
            "disabledAt": self.disabled_at,
        })
    }
}
