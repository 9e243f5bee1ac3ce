//! Replays: choose what, see how many, start, and watch it go.

use askama::Template;
use axum::extract::{Path, State};
use postrider_core::{Id, id};
use postrider_service::{
    ErrorCode, NewReplay, Refusal, Replay as CoreReplay, StatisticsAsked, TaskStatus, read_state,
};

use crate::Site;
use crate::deliveries::{mode, time};
use crate::door::Visitor;
use crate::endpoint::tenant_of;
use crate::failure::{Failure, sentence};
use crate::fields::{Fields, Posted};
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::{When, next_of, page_of, read};
use crate::tenant::crumbs_below;
use crate::words::{Standing, counted, grouped};

#[derive(Template)]
#[template(path = "replays.html")]
struct Replays {
    frame: Frame,
    tenant: String,
    typed: Typed,
    /// How many it would be; none before something was chosen.
    preview: Option<String>,
    rows: Vec<Row>,
    next: Option<String>,
    problem: Option<String>,
}

/// What the form holds.
#[derive(Default)]
struct Typed {
    status: String,
    event_type: String,
    endpoint: String,
    since: String,
    until: String,
    mode: String,
}

impl Typed {
    fn of(fields: &Fields) -> Self {
        Self {
            status: fields.text("status"),
            event_type: fields.text("type"),
            endpoint: fields.text("endpoint"),
            since: fields.text("since"),
            until: fields.text("until"),
            mode: fields.text("mode"),
        }
    }
}

struct Row {
    href: String,
    created: When,
    standing: Standing,
    progress: String,
}

pub(crate) async fn list(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let tenant = tenant_of(&visitor, &id)?;
    let typed = Typed::of(&visitor.query);
    let (preview, problem) = match visitor.query.get("preview") {
        None => (None, None),
        Some(_) => match preview(&site, &visitor, tenant).await {
            Ok(told) => (Some(told), None),
            Err(refusal) => (None, Some(sentence(&refusal))),
        },
    };
    page(&site, &visitor, tenant, typed, preview, problem).await
}

async fn page(
    site: &Site,
    visitor: &Visitor,
    tenant: Id<id::Tenant>,
    typed: Typed,
    preview: Option<String>,
    problem: Option<String>,
) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let asked = page_of(visitor).map_err(&refused)?;
    let listed = service.list_replays(who, tenant, asked).await;
    let listed = listed.map_err(&refused)?;
    let now = service.now();
    let next = next_of(
        &listed,
        &visitor.href(format_args!("/tenants/{tenant}/replays")),
        &[],
    );
    let row = |replay: &CoreReplay| Row {
        href: visitor.href(format_args!("/replays/{}", replay.id)),
        created: When::new(replay.created_at, now),
        standing: standing(&replay.status),
        progress: progress(replay),
    };
    let page = Replays {
        frame: Frame::of(visitor, "Replay").behind(crumbs_below(site, visitor, tenant).await),
        tenant: tenant.to_string(),
        typed,
        preview,
        rows: listed.rows.iter().map(row).collect(),
        next,
        problem,
    };
    frame::show(&page.frame, &page)
}

/// How many deliveries a replay would send again.
async fn preview(
    site: &Site,
    visitor: &Visitor,
    tenant: Id<id::Tenant>,
) -> Result<String, Refusal> {
    let new = command(&visitor.query)?;
    let service = site.service();
    let asked = StatisticsAsked {
        // All that there is, where no time is given.
        since: new.since.or(Some(postrider_core::Timestamp::from_secs(0))),
        until: new.until,
        event_type: new.r#type.clone(),
        state: read_state(Some(new.status.as_deref().unwrap_or("failed")))?,
        mode: new.mode,
        endpoint: new.endpoint,
        ..StatisticsAsked::default()
    };
    match service
        .statistics(&visitor.visit.caller, tenant, asked)
        .await
    {
        Ok(statistics) => Ok(match statistics.totals.total {
            0 => "No delivery is like that.".to_owned(),
            total => format!(
                "{} would be sent again.",
                counted(total, "delivery", "deliveries")
            ),
        }),
        Err(refusal) if refusal.code == ErrorCode::QueryTooLong => {
            Ok("There are more than are counted for a preview.".to_owned())
        }
        Err(refusal) => Err(refusal),
    }
}

fn command(fields: &Fields) -> Result<NewReplay, Refusal> {
    let endpoint = fields.get("endpoint").map(str::parse::<Id<id::Endpoint>>);
    let endpoint = endpoint.transpose();
    Ok(NewReplay {
        endpoint: endpoint.map_err(|error| Refusal::invalid("endpoint", error.to_string()))?,
        event: None,
        r#type: fields.get("type").map(str::to_owned),
        mode: mode(fields.get("mode"))?,
        status: fields.get("status").map(str::to_owned),
        missed: fields.get("missed").is_some(),
        since: time("since", fields.get("since"))?,
        until: time("until", fields.get("until"))?,
    })
}

pub(crate) async fn create(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let tenant = tenant_of(&visitor, &id)?;
    let made = match command(&fields) {
        Ok(new) => {
            let who = &visitor.visit.caller;
            site.service().create_replay(who, tenant, new).await
        }
        Err(refusal) => Err(refusal),
    };
    match made {
        Ok(replay) => Ok(visitor.back_to(format_args!("/replays/{}", replay.id), "replaying")),
        // What an endpoint missed is asked for on its page.
        Err(refusal) if refusal.code == ErrorCode::NotFound || fields.get("missed").is_some() => {
            Err(Failure::Refused(site.face, refusal))
        }
        Err(refusal) => {
            let problem = Some(sentence(&refusal));
            page(&site, &visitor, tenant, Typed::of(&fields), None, problem).await
        }
    }
}

#[derive(Template)]
#[template(path = "replay.html")]
struct Replay {
    frame: Frame,
    id: String,
    standing: Standing,
    sentence: String,
    /// In thousandths; none until it is counted.
    share: Option<u64>,
    created: When,
    finished: Option<When>,
    running: bool,
    /// What the page shows, while that may change.
    seen: Option<String>,
    skipped: u64,
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let id = read(&visitor, &id)?;
    let replay = service.replay(who, id).await.map_err(&refused)?;
    let now = service.now();
    let mut crumbs = Vec::new();
    if let Some(tenant) = replay.tenant {
        crumbs = crumbs_below(&site, &visitor, tenant).await;
        let all = visitor.href(format_args!("/tenants/{tenant}/replays"));
        crumbs.push(Link::new(all, "Replay"));
    }
    let page = Replay {
        frame: Frame::of(&visitor, "Replay").behind(crumbs),
        id: replay.id.to_string(),
        standing: standing(&replay.status),
        sentence: match &replay.status {
            TaskStatus::Failed(error) => format!("It stopped: {error}. {}", progress(&replay)),
            _ => progress(&replay),
        },
        share: replay
            .total
            .map(|total| (replay.done + replay.skipped) * 1_000 / total.max(1)),
        created: When::new(replay.created_at, now),
        finished: replay.finished_at.map(|at| When::new(at, now)),
        running: replay.status == TaskStatus::Running,
        seen: (replay.status == TaskStatus::Running).then(|| seen(&replay)),
        skipped: replay.skipped,
    };
    frame::show(&page.frame, &page)
}

/// How it stands, in a word that changes when it does.
pub(crate) async fn glance(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let id = read(&visitor, &id)?;
    let found = site.service().replay(&visitor.visit.caller, id).await;
    Ok(frame::word(seen(&found.map_err(visitor.refused())?)))
}

fn seen(replay: &CoreReplay) -> String {
    let running = replay.status == TaskStatus::Running;
    format!("{running} {} {}", replay.done, replay.skipped)
}

pub(crate) async fn cancel(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let visitor = &posted.visitor;
    let id = read(visitor, &id)?;
    let cancelled = site
        .service()
        .cancel_replay(&visitor.visit.caller, id)
        .await;
    cancelled.map_err(visitor.refused())?;
    Ok(visitor.back_to(format_args!("/replays/{id}"), "stopped"))
}

pub(crate) fn standing(status: &TaskStatus) -> Standing {
    match status {
        TaskStatus::Running => Standing::RUNNING,
        TaskStatus::Finished => Standing::DONE,
        TaskStatus::Cancelled => Standing::STOPPED,
        TaskStatus::Failed(_) => Standing::BROKEN,
    }
}

pub(crate) fn progress(replay: &CoreReplay) -> String {
    let of = replay
        .total
        .map_or_else(String::new, |total| format!(" of {}", grouped(total)));
    let skipped = match replay.skipped {
        0 => String::new(),
        skipped => format!(", {} left out", grouped(skipped)),
    };
    format!("{}{of} sent again{skipped}.", grouped(replay.done))
}
