//! The audit log: every change of configuration, by whom, before and after.

use std::sync::Arc;

use postrider_core::audit::AuditEntry;
use postrider_core::tenant::Scope;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{AuditFilter, Page, PageRequest};
use serde_json::Value;

use crate::reading::{bounded_page, must_be_range};
use crate::refusal::{Refusal, Result};
use crate::{Caller, Service};

/// What a customer is told of the users of the console.
const PRODUCTS_PEOPLE: &str = "somebody of the product";

/// Which entries.
#[derive(Debug, Default)]
pub struct AuditQuery {
    pub application: Option<Id<id::Application>>,
    pub tenant: Option<Id<id::Tenant>>,
    /// The id of what was changed.
    pub subject: Option<String>,
    pub action: Option<String>,
    /// The key that asked.
    pub key: Option<Id<id::ApiKey>>,
    /// The user of the console who did it.
    pub user: Option<Id<id::User>>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl Service {
    /// What was changed within the caller's scope, the newest first.
    ///
    /// # Errors
    /// `scope_insufficient` for a test key, `not_found` of what is another's, or what the store answers.
    pub async fn list_audit(
        &self,
        who: &Caller,
        query: AuditQuery,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>> {
        // What was changed for live traffic is among it.
        who.must_be_live()?;
        let (own_application, own_tenant) = who.confined();
        if own_application.is_some_and(|own| query.application.is_some_and(|given| given != own)) {
            return Err(Refusal::not_found("application"));
        }
        if let Some(tenant) = query.tenant {
            who.tenant(self, tenant).await?;
        }
        must_be_range(query.since, query.until)?;
        let filter = AuditFilter {
            application: own_application.or(query.application),
            tenant: own_tenant.or(query.tenant),
            subject: query.subject,
            action: query.action,
            key: query.key,
            user: query.user,
            since: query.since,
            until: query.until,
        };
        let (store, page) = (self.0.store.clone(), bounded_page(page));
        let list = async move { store.list_audit(filter, page).await };
        let mut listed = self.listed(who, list).await?;
        if matches!(who.scope(), Scope::Tenant(..)) {
            // Who of the product's people it was is not the customer's to know, and what they noted neither.
            for entry in &mut listed.rows {
                if entry.actor.user.take().is_some() {
                    entry.actor.name = Arc::from(PRODUCTS_PEOPLE);
                }
                // In the portal nobody sees the notes on an endpoint either; a customer's key reads and writes them.
                let are_notes = entry.action.starts_with("tenant.") || who.is_visitor();
                for side in [&mut entry.before, &mut entry.after] {
                    *side = side.take().map(|text| for_customers(&text, are_notes));
                }
            }
        }
        Ok(listed)
    }
}

/// One side of a change without what the product keeps to itself: its notes, and which of its users looked at the portal.
fn for_customers(side: &str, are_notes: bool) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(side) else {
        // It was written as an object; what is not cannot be looked through.
        return "{}".to_owned();
    };
    if are_notes {
        fields.remove("metadata");
        fields.remove("externalId");
    }
    if let Some(Value::Object(terms)) = fields.get_mut("terms")
        && terms.remove("user").is_some_and(|user| !user.is_null())
    {
        terms.remove("name");
        terms.remove("passwordSince");
    }
    Value::Object(fields).to_string()
}

#[cfg(test)]
mod tests {
    use super::for_customers;

    #[test]
    fn notes_and_users_are_the_products_own() {
        let side = r#"{"metadata":{"plan":"churning"},"externalId":"c-1","name":"Ada"}"#;
        assert_eq!(for_customers(side, true), r#"{"name":"Ada"}"#);
        assert!(for_customers(side, false).contains("churning"));
        let opened = r#"{"terms":{"name":"eve@example.com","user":"usr_1","passwordSince":1},"opened":true}"#;
        assert_eq!(
            for_customers(opened, false),
            r#"{"opened":true,"terms":{}}"#
        );
        let by_link = r#"{"terms":{"name":"their own","user":null}}"#;
        assert_eq!(
            for_customers(by_link, false),
            r#"{"terms":{"name":"their own"}}"#
        );
    }
}
