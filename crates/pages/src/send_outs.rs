//! The log of send-outs, with the columns that its vendor's page has (`docs/systems.md`, F-25).

use askama::Template;
use axum::extract::{Path, State};
use postrider_service::{Refusal, SendOut, SendOutQuery, SendOutStatus};

use crate::Site;
use crate::deliveries::time;
use crate::door::Visitor;
use crate::endpoint::tenant_of;
use crate::frame::{self, Frame, Shown};
use crate::shown::{When, next_of, page_of};
use crate::tenant::crumbs_below;
use crate::words::Standing;

/// What can be asked for, in the words of the page.
const STATUSES: [(&str, SendOutStatus); 4] = [
    ("succeeded", SendOutStatus::Succeeded),
    ("retrying", SendOutStatus::Retrying),
    ("failed", SendOutStatus::Failed),
    ("skipped", SendOutStatus::Skipped),
];

#[derive(Template)]
#[template(path = "send_outs.html")]
struct SendOuts {
    frame: Frame,
    heading: String,
    statuses: Vec<&'static str>,
    status: String,
    shown_type: String,
    id: String,
    since: String,
    until: String,
    rows: Vec<Row>,
    next: Option<String>,
}

struct Row {
    href: String,
    standing: Standing,
    shown_type: String,
    id: String,
    source: String,
    target_url: String,
    request_id: Option<String>,
    created: When,
    executed: Option<When>,
    error: Option<String>,
}

pub(crate) async fn list(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let tenant = tenant_of(&visitor, &id)?;
    let (_, profile) = service.tenant(who, tenant).await.map_err(&refused)?;
    let text = |name| visitor.query.text(name);
    let asked = query(&visitor).map_err(&refused)?;
    let page = page_of(&visitor).map_err(&refused)?;
    let found = service.list_send_outs(who, tenant, asked, page).await;
    let found = found.map_err(&refused)?;
    let now = service.now();
    let row = |found: SendOut| Row {
        href: visitor.href(format_args!("/deliveries/{}", found.delivery.id)),
        standing: Standing::of_send_out(found.status),
        shown_type: found.shown_type,
        id: found.send_out_id,
        source: match found.source.name {
            Some(name) => format!("{name} ({})", found.source.object),
            None => format!("{} ({})", found.source.id, found.source.object),
        },
        target_url: found.target_url,
        request_id: found.request_id,
        created: When::new(found.event_created_at, now),
        executed: found.executed_at.map(|at| When::new(at, now)),
        error: found.error,
    };
    let (status, shown_type, wanted) = (text("status"), text("type"), text("id"));
    let (since, until, source) = (text("since"), text("until"), text("source"));
    let filters = [
        ("status", status.as_str()),
        ("type", shown_type.as_str()),
        ("id", wanted.as_str()),
        ("since", since.as_str()),
        ("until", until.as_str()),
        ("source", source.as_str()),
    ];
    let path = visitor.href(format_args!("/tenants/{tenant}/send-outs"));
    let next = next_of(&found, &path, &filters);
    let heading = profile.portal.deliveries.clone();
    let page = SendOuts {
        frame: Frame::of(&visitor, heading.clone())
            .behind(crumbs_below(&site, &visitor, tenant).await),
        heading,
        statuses: STATUSES.iter().map(|(word, _)| *word).collect(),
        status,
        shown_type,
        id: wanted,
        since,
        until,
        rows: found.rows.into_iter().map(row).collect(),
        next,
    };
    frame::show(&page.frame, &page)
}

fn query(visitor: &Visitor) -> Result<SendOutQuery, Refusal> {
    let text = |name| visitor.query.get(name).map(str::to_owned);
    let status = visitor.query.get("status").map(|word| {
        let known = STATUSES.iter().find(|(known, _)| *known == word);
        let rule = || Refusal::invalid("status", "is none that a send-out has");
        known.map(|(_, status)| *status).ok_or_else(rule)
    });
    Ok(SendOutQuery {
        status: status.transpose()?,
        shown_type: text("type"),
        send_out_id: text("id"),
        source: text("source"),
        since: time("since", visitor.query.get("since"))?,
        until: time("until", visitor.query.get("until"))?,
    })
}
