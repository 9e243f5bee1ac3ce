//! Events: what was published, who got it, and who did not and why.

use askama::Template;
use axum::extract::{Path, State};
use bytes::Bytes;
use postrider_core::endpoint::EndpointKind;
use postrider_core::event::{Event as CoreEvent, EventSummary};
use postrider_core::tenant::Mode;
use postrider_service::{DeliveryListed, DeliveryQuery, EventQuery, NewEvent, PageRequest};
use serde_json::value::RawValue;

use crate::Site;
use crate::deletion::deletes_tenants;
use crate::deliveries::{mode, time};
use crate::door::Visitor;
use crate::endpoint::tenant_of;
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::{
    BodyShown, DeliveryRow, ROWS, When, name_of, next_of, page_of, read, tell_apart,
};
use crate::tenant::crumbs_below;
use crate::words::counted;

#[derive(Template)]
#[template(path = "events.html")]
struct Events {
    frame: Frame,
    sentence: String,
    event_type: String,
    mode: String,
    rows: Vec<EventRow>,
    next: Option<String>,
}

struct EventRow {
    href: String,
    id: String,
    event_type: String,
    created: When,
    test: bool,
}

pub(crate) async fn list(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let tenant = tenant_of(&visitor, &id)?;
    let now = service.now();
    let page = page_of(&visitor).map_err(&refused)?;
    let (event_type, asked) = (visitor.query.text("type"), visitor.query.text("mode"));
    let query = EventQuery {
        event_type: visitor.query.get("type").map(str::to_owned),
        mode: mode(visitor.query.get("mode")).map_err(&refused)?,
        since: time("since", visitor.query.get("since")).map_err(&refused)?,
        until: time("until", visitor.query.get("until")).map_err(&refused)?,
    };
    let found = service.list_events(who, tenant, query, page).await;
    let found = found.map_err(&refused)?;
    let path = visitor.href(format_args!("/tenants/{tenant}/events"));
    let (since, until) = (visitor.query.text("since"), visitor.query.text("until"));
    let filters = [
        ("type", event_type.as_str()),
        ("mode", asked.as_str()),
        ("since", since.as_str()),
        ("until", until.as_str()),
    ];
    let next = next_of(&found, &path, &filters);
    let row = |event: EventSummary| EventRow {
        href: visitor.href(format_args!("/events/{}", event.id)),
        id: event.id.to_string(),
        event_type: event.event_type.as_ref().to_owned(),
        created: When::new(event.created_at, now),
        test: event.mode == Mode::Test,
    };
    let rows: Vec<EventRow> = found.rows.into_iter().map(row).collect();
    let filtered = !event_type.is_empty() || !asked.is_empty();
    let later = visitor.query.get("after").is_some();
    let page = Events {
        frame: Frame::of(&visitor, "Events").behind(crumbs_below(&site, &visitor, tenant).await),
        sentence: match (rows.len(), &next) {
            (0, None) if filtered => "No event is like that.".to_owned(),
            (0, None) => "No event yet.".to_owned(),
            (0, Some(_)) => {
                "None among those that were looked at; there are older ones.".to_owned()
            }
            (_, _) if later => "Older ones.".to_owned(),
            (some, None) => format!(
                "{}, the newest first.",
                counted(some as u64, "event", "events")
            ),
            (some, Some(_)) => format!("The newest {some}; older ones follow."),
        },
        event_type,
        mode: asked,
        rows,
        next,
    };
    frame::show(&page.frame, &page)
}

#[derive(Template)]
#[template(path = "event.html")]
struct Event {
    frame: Frame,
    id: String,
    event_type: String,
    test: bool,
    sentence: String,
    created: When,
    occurred: When,
    ordering_key: Option<String>,
    deliver_before: Option<When>,
    trace: Option<String>,
    /// None where it was deleted.
    data: Option<BodyShown>,
    meta: Option<BodyShown>,
    /// Where its content is deleted, for whoever may.
    delete: Option<String>,
    deliveries: Vec<DeliveryRow>,
    more: Option<String>,
    /// Endpoints without a delivery of it, each with the reasons that there are today.
    without: Vec<Without>,
}

struct Without {
    id: String,
    endpoint: Link,
    reasons: Vec<String>,
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let id = read(&visitor, &id)?;
    let now = service.now();
    let event = service.event(who, id).await.map_err(&refused)?;
    let query = DeliveryQuery {
        tenant: Some(event.tenant),
        event: Some(id),
        ..DeliveryQuery::default()
    };
    let found = service.list_deliveries(who, query, PageRequest::first(ROWS));
    let found = found.await.map_err(&refused)?;
    let more = found.next.is_some();
    let mut without = without(&site, &visitor, &event, &found.rows).await;
    let mut deliveries: Vec<DeliveryRow> = found
        .rows
        .iter()
        .map(|listed| DeliveryRow::new(&visitor, listed, now))
        .collect();
    let ids = found.rows.iter();
    let ids: Vec<String> = ids
        .map(|listed| listed.delivery.endpoint.to_string())
        .collect();
    let got = deliveries.iter_mut().map(|row| &mut row.endpoint).zip(ids);
    let rest = without
        .iter_mut()
        .map(|row| (&mut row.endpoint.label, row.id.clone()));
    tell_apart(got.chain(rest));
    let crumbs = crumbs_below(&site, &visitor, event.tenant).await;
    let all = visitor.href(format_args!("/tenants/{}/events", event.tenant));
    let crumbs = crumbs.into_iter().chain([Link::new(all, "Events")]);
    let page = Event {
        frame: Frame::of(&visitor, event.event_type.as_ref()).behind(crumbs),
        id: event.id.to_string(),
        event_type: event.event_type.as_ref().to_owned(),
        test: event.mode == Mode::Test,
        sentence: sentence(&deliveries, more),
        created: When::new(event.created_at, now),
        occurred: When::new(event.occurred_at, now),
        ordering_key: event.ordering_key.clone(),
        deliver_before: event.deliver_before.map(|at| When::new(at, now)),
        trace: event.traceparent.map(|trace| trace.to_string()),
        data: event
            .has_content()
            .then(|| BodyShown::new(&event.data, false)),
        delete: (deletes_tenants(&visitor) && event.has_content())
            .then(|| visitor.href(format_args!("/events/{id}/delete"))),
        meta: event.meta.as_ref().map(|meta| BodyShown::new(meta, false)),
        deliveries,
        more: more.then(|| visitor.href(format_args!("/deliveries?event={id}"))),
        without,
    };
    frame::show(&page.frame, &page)
}

fn sentence(deliveries: &[DeliveryRow], more: bool) -> String {
    let count = |word| {
        deliveries
            .iter()
            .filter(|row| row.standing.word == word)
            .count()
    };
    let (delivered, failed) = (count("delivered"), count("failed"));
    let all = deliveries.len();
    if more {
        return format!("Sent to more than {all} endpoints.");
    }
    match all {
        0 => "Nobody gets it: no endpoint had subscribed when it came.".to_owned(),
        1 => format!(
            "It goes to one endpoint, and is {}.",
            deliveries[0].standing.word
        ),
        _ if delivered == all => format!("All {all} endpoints have it."),
        _ => format!("{delivered} of {all} endpoints have it; {failed} failed."),
    }
}

/// Who subscribes to events like this and has no delivery of it. Of an event that was for somebody named, nobody
/// else is told.
async fn without(
    site: &Site,
    visitor: &Visitor,
    event: &CoreEvent,
    got: &[DeliveryListed],
) -> Vec<Without> {
    let endpoints = got.iter().filter_map(|listed| listed.endpoint.as_ref());
    let named = endpoints
        .into_iter()
        .any(|endpoint| endpoint.kind != EndpointKind::Registered);
    let data: Option<&RawValue> = serde_json::from_slice(&event.data).ok();
    let meta = event.meta.as_ref();
    let meta: Option<&RawValue> = meta.and_then(|meta| serde_json::from_slice(meta).ok());
    let (false, Some(data)) = (named, data) else {
        return Vec::new();
    };
    let imagined = NewEvent {
        r#type: event.event_type.as_ref().to_owned(),
        data,
        meta,
        occurred_at: None,
        mode: Some(event.mode),
        ordering_key: None,
        deliver_before: None,
        callback_url: None,
        endpoint: None,
        key: None,
        distribution: None,
        idempotency_key: None,
    };
    let who = &visitor.visit.caller;
    let first = PageRequest::first(ROWS);
    let sent = Bytes::new();
    // It is help, and no more: an event that could not be published today explains nothing.
    let explained = site
        .service()
        .explain(who, event.tenant, imagined, &sent, first);
    let Ok(explained) = explained.await else {
        return Vec::new();
    };
    let has = |id| got.iter().any(|listed| listed.delivery.endpoint == id);
    let rows = explained.rows.into_iter();
    let missing = rows.filter(|row| !has(row.endpoint.id));
    let shown = missing.map(|row| Without {
        id: row.endpoint.id.to_string(),
        endpoint: Link::new(
            visitor.href(format_args!("/endpoints/{}", row.endpoint.id)),
            name_of(&row.endpoint),
        ),
        reasons: if row.reasons.is_empty() {
            vec![later(&row.endpoint, event)]
        } else {
            row.reasons
        },
    });
    shown.collect()
}

/// Why somebody who would get it today did not get it then.
fn later(endpoint: &postrider_core::endpoint::Endpoint, event: &CoreEvent) -> String {
    if endpoint.created_at > event.created_at {
        format!("it was made at {}, after the event", endpoint.created_at)
    } else {
        "it would get it today; it did not subscribe, or was disabled, when the event came"
            .to_owned()
    }
}
