//! The audit log: who changed what, and what it was before.

use askama::Template;
use axum::extract::State;
use postrider_core::audit::AuditEntry;
use postrider_service::AuditQuery;

use crate::Site;
use crate::deliveries::time;
use crate::door::Visitor;
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::{When, next_of, page_of};

#[derive(Template)]
#[template(path = "audit.html")]
struct Audit {
    frame: Frame,
    subject: String,
    action: String,
    rows: Vec<Row>,
    next: Option<String>,
}

struct Row {
    at: When,
    actor: String,
    action: String,
    subject: String,
    /// What has another value now: its name, before, after.
    changes: Vec<(String, String, String)>,
}

pub(crate) async fn list(State(site): State<Site>, visitor: Visitor) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let now = service.now();
    let page = page_of(&visitor).map_err(&refused)?;
    let (subject, action) = (visitor.query.text("subject"), visitor.query.text("action"));
    let query = AuditQuery {
        subject: visitor.query.get("subject").map(str::to_owned),
        action: visitor.query.get("action").map(str::to_owned),
        since: time("since", visitor.query.get("since")).map_err(&refused)?,
        until: time("until", visitor.query.get("until")).map_err(&refused)?,
        ..AuditQuery::default()
    };
    let found = service
        .list_audit(who, query, page)
        .await
        .map_err(&refused)?;
    let (since, until) = (visitor.query.text("since"), visitor.query.text("until"));
    let filters = [
        ("subject", subject.as_str()),
        ("action", action.as_str()),
        ("since", since.as_str()),
        ("until", until.as_str()),
    ];
    let next = next_of(&found, &visitor.href("/audit"), &filters);
    let row = |entry: AuditEntry| Row {
        at: When::new(entry.actor.at, now),
        actor: entry.actor.name.as_ref().to_owned(),
        changes: changes(entry.before.as_deref(), entry.after.as_deref()),
        action: entry.action,
        subject: entry.subject,
    };
    let page = Audit {
        frame: Frame::of(&visitor, "Changes")
            .behind([Link::new(visitor.face.home(), visitor.face.first())]),
        rows: found.rows.into_iter().map(row).collect(),
        subject,
        action,
        next,
    };
    frame::show(&page.frame, &page)
}

/// What a change changed, field by field.
fn changes(before: Option<&str>, after: Option<&str>) -> Vec<(String, String, String)> {
    let read = |text: Option<&str>| -> serde_json::Map<String, serde_json::Value> {
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    };
    let (before, after) = (read(before), read(after));
    let text = |value: Option<&serde_json::Value>| match value {
        None | Some(serde_json::Value::Null) => String::new(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            let (before, after) = (before.get(name), after.get(name));
            (name.clone(), text(before), text(after))
        })
        .filter(|(_, before, after)| before != after)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::changes;

    #[test]
    fn only_what_changed_is_told() {
        let told = changes(
            Some(r#"{"a":1,"b":"x"}"#),
            Some(r#"{"a":1,"b":"y","c":[2]}"#),
        );
        let own = |(name, before, after): (&str, &str, &str)| {
            (name.to_owned(), before.to_owned(), after.to_owned())
        };
        assert_eq!(told, [own(("b", "x", "y")), own(("c", "", "[2]"))]);
    }
}
