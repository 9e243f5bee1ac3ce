//! Deleting a customer, an application or what an event said: asked once, by name and with what goes. The first two
//! are watched.

use askama::Template;
use axum::extract::{Path, State};
use postrider_core::tenant::Scope;
use postrider_core::{Timestamp, id};
use postrider_service::{Deletion as CoreDeletion, Refusal, StatisticsAsked, TaskStatus};

use crate::Site;
use crate::door::Visitor;
use crate::failure::Failure;
use crate::fields::Posted;
use crate::frame::{self, Face, Frame, Link, Shown};
use crate::shown::{When, read};
use crate::tenant::crumbs_below;
use crate::words::{Standing, counted};

#[derive(Template)]
#[template(path = "delete.html")]
struct Ask {
    frame: Frame,
    name: String,
    /// What goes with it.
    sentence: String,
    action: String,
    back: String,
    wrong: Option<String>,
}

pub(crate) async fn ask_tenant(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    tenant_page(&site, &visitor, &id, None).await
}

async fn tenant_page(site: &Site, visitor: &Visitor, id: &str, wrong: Option<String>) -> Shown {
    let refused = visitor.refused();
    let id = read(visitor, id)?;
    let (service, who) = (site.service(), &visitor.visit.caller);
    let (tenant, _) = service.tenant(who, id).await.map_err(&refused)?;
    must_be_able(visitor, deletes_tenants(visitor))?;
    let all = StatisticsAsked {
        since: Some(Timestamp::from_secs(0)),
        without_outcomes: true,
        ..StatisticsAsked::default()
    };
    // Where there is too much to count it is told without.
    let total = service.statistics(who, id, all).await;
    let total = total.map(|counted| counted.totals.total).ok();
    let deliveries = total.map_or_else(
        || "all deliveries".to_owned(),
        |total| counted(total, "delivery", "deliveries"),
    );
    let crumbs = crumbs_below(site, visitor, id).await;
    ask(&Ask {
        frame: Frame::of(visitor, "Delete").behind(crumbs),
        name: tenant.name.clone(),
        sentence: format!(
            "Its endpoints, keys and events are erased, the history of its changes, and {deliveries} with their attempts. What waits is not sent any more."
        ),
        action: format!("/tenants/{id}/delete"),
        back: format!("/tenants/{id}"),
        wrong,
    })
}

pub(crate) async fn ask_application(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    application_page(&site, &visitor, &id, None).await
}

async fn application_page(
    site: &Site,
    visitor: &Visitor,
    id: &str,
    wrong: Option<String>,
) -> Shown {
    let id = read::<id::Application>(visitor, id)?;
    let found = site.service().application(&visitor.visit.caller, id).await;
    let application = found.map_err(visitor.refused())?;
    must_be_able(visitor, deletes_applications(visitor))?;
    let here = format!("/applications/{id}");
    ask(&Ask {
        frame: Frame::of(visitor, "Delete").behind([
            Link::new("/", "Overview"),
            Link::new(here.clone(), application.name.clone()),
        ]),
        name: application.name.clone(),
        sentence: "All its customers go, with their endpoints, keys, events and deliveries; its event types, keys and users. What waits is not sent any more.".to_owned(),
        action: format!("{here}/delete"),
        back: here,
        wrong,
    })
}

pub(crate) async fn ask_content(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    content_page(&site, &visitor, &id, None).await
}

async fn content_page(site: &Site, visitor: &Visitor, id: &str, wrong: Option<String>) -> Shown {
    let id = read::<id::Event>(visitor, id)?;
    let found = site.service().event(&visitor.visit.caller, id).await;
    let event = found.map_err(visitor.refused())?;
    must_be_able(visitor, deletes_tenants(visitor))?;
    let here = format!("/events/{id}");
    let crumbs = crumbs_below(site, visitor, event.tenant).await;
    let crumbs = crumbs.into_iter();
    let crumbs = crumbs.chain([Link::new(here.clone(), event.event_type.as_ref())]);
    ask(&Ask {
        frame: Frame::of(visitor, "Delete").behind(crumbs),
        name: event.event_type.as_ref().to_owned(),
        sentence: "What this event said goes, and what receivers answered to it. What waits is cancelled, and nothing of it can be sent again. When it was sent, to whom, and with which status, stays.".to_owned(),
        action: format!("{here}/delete"),
        back: here,
        wrong,
    })
}

fn ask(page: &Ask) -> Shown {
    let status = match page.wrong {
        Some(_) => http::StatusCode::BAD_REQUEST,
        None => http::StatusCode::OK,
    };
    frame::show_as(status, &page.frame, page)
}

/// Whether the visitor deletes customers.
pub(crate) fn deletes_tenants(visitor: &Visitor) -> bool {
    let who = &visitor.visit.caller;
    visitor.face == Face::Console && who.is_owner() && !who.is_read_only()
}

/// Whether the visitor deletes applications.
pub(crate) fn deletes_applications(visitor: &Visitor) -> bool {
    deletes_tenants(visitor) && visitor.visit.caller.scope() == Scope::Root
}

/// The page is for whoever can do it; the service says so once more.
fn must_be_able(visitor: &Visitor, able: bool) -> Result<(), Failure> {
    if able {
        return Ok(());
    }
    Err(Failure::not_found(visitor.face))
}

/// Nobody deletes what they did not name, as a page shows it.
fn must_be_named(name: &str, typed: Option<&str>) -> Result<(), Refusal> {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    if typed.map(plain) == Some(plain(name)) {
        return Ok(());
    }
    let rule = format!("must be {}, as it is written above", plain(name));
    Err(Refusal::invalid("name", rule))
}

pub(crate) async fn delete_tenant(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let (service, who) = (site.service(), &visitor.visit.caller);
    let tenant = read(&visitor, &id)?;
    let found = service.tenant(who, tenant).await;
    let (known, _) = found.map_err(visitor.refused())?;
    let begun = match must_be_named(&known.name, fields.get("name")) {
        Ok(()) => service.delete_tenant(who, tenant).await,
        Err(refusal) => Err(refusal),
    };
    match begun {
        Ok(begun) => Ok(visitor.back_to(format_args!("/deletions/{}", begun.id), "deleting")),
        Err(refusal) => tenant_page(&site, &visitor, &id, Some(visitor.told_why(refusal)?)).await,
    }
}

pub(crate) async fn delete_application(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let (service, who) = (site.service(), &visitor.visit.caller);
    let application = read(&visitor, &id)?;
    let found = service.application(who, application).await;
    let known = found.map_err(visitor.refused())?;
    let begun = match must_be_named(&known.name, fields.get("name")) {
        Ok(()) => service.delete_application(who, application).await,
        Err(refusal) => Err(refusal),
    };
    match begun {
        Ok(begun) => Ok(visitor.back_to(format_args!("/deletions/{}", begun.id), "deleting")),
        Err(refusal) => {
            application_page(&site, &visitor, &id, Some(visitor.told_why(refusal)?)).await
        }
    }
}

pub(crate) async fn delete_content(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let (service, who) = (site.service(), &visitor.visit.caller);
    let event = read::<id::Event>(&visitor, &id)?;
    let found = service.event(who, event).await;
    let known = found.map_err(visitor.refused())?;
    let deleted = match must_be_named(&known.event_type, fields.get("name")) {
        Ok(()) => service.delete_content(who, event).await,
        Err(refusal) => Err(refusal),
    };
    match deleted {
        Ok(()) => Ok(visitor.back_to(format_args!("/events/{event}"), "content")),
        Err(refusal) => content_page(&site, &visitor, &id, Some(visitor.told_why(refusal)?)).await,
    }
}

#[derive(Template)]
#[template(path = "deletion.html")]
struct Deletion {
    frame: Frame,
    id: String,
    standing: Standing,
    sentence: String,
    created: When,
    finished: Option<When>,
    /// What the page shows, while that may change.
    seen: Option<String>,
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let id = read(&visitor, &id)?;
    let service = site.service();
    let found = service.deletion(&visitor.visit.caller, id).await;
    let deletion = found.map_err(visitor.refused())?;
    let now = service.now();
    let running = deletion.status == TaskStatus::Running;
    let progress = progress(&deletion);
    let page = Deletion {
        frame: Frame::of(&visitor, "Deletion").behind([Link::new("/", "Overview")]),
        id: id.to_string(),
        standing: standing(&deletion.status),
        sentence: if running {
            format!("It is gone for everybody; what it had is being erased. {progress}")
        } else {
            format!("It is gone, and what it had is erased. {progress}")
        },
        created: When::new(deletion.created_at, now),
        finished: deletion.finished_at.map(|at| When::new(at, now)),
        seen: running.then(|| seen(&deletion)),
    };
    frame::show(&page.frame, &page)
}

pub(crate) async fn glance(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let id = read(&visitor, &id)?;
    let found = site.service().deletion(&visitor.visit.caller, id).await;
    Ok(frame::word(seen(&found.map_err(visitor.refused())?)))
}

pub(crate) fn standing(status: &TaskStatus) -> Standing {
    match status {
        TaskStatus::Running => Standing::RUNNING,
        // Nobody stops one, and what it cannot erase it tries again.
        TaskStatus::Finished | TaskStatus::Cancelled | TaskStatus::Failed(_) => Standing::DONE,
    }
}

pub(crate) fn progress(deletion: &CoreDeletion) -> String {
    format!("{} erased.", counted(deletion.erased, "row", "rows"))
}

fn seen(deletion: &CoreDeletion) -> String {
    let running = deletion.status == TaskStatus::Running;
    format!("{running} {}", deletion.erased)
}
