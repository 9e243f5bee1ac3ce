//! The console's first page: how things are, in one sentence, and where to look.

use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect};
use postrider_core::Timestamp;
use postrider_core::endpoint::Endpoint;
use postrider_core::limits::PAGE_ROWS_DEFAULT;
use postrider_core::tenant::{Application, Scope};
use postrider_service::{
    DeliveryQuery, LaneStanding, LanesStanding, LastHour, MINUTES, PageRequest, Refusal, Survey,
    read_state,
};

use crate::Site;
use crate::chart::{Strip, hour as hour_strip};
use crate::day::rate;
use crate::door::Visitor;
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::{DeliveryRow, EndpointRow, When};
use crate::words::{grouped, long};

/// Rows of each of the two short lists.
const SHORT: usize = 8;
/// Endpoints that fail, of the list of those.
const FAILING: u32 = 8;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    frame: Frame,
    sentence: String,
    applications: Vec<ApplicationRow>,
    more: bool,
    /// Endpoints that have failed for the longest.
    failing: Vec<EndpointRow>,
    failed: Lately,
    waiting: Lately,
    set_aside: u64,
    damaged: u64,
    /// Whoever is there came with a key, and nobody has a name yet.
    nameless: bool,
    /// The last hour and what happens just now, for the operator.
    hour: Option<Hour>,
    now: Vec<Figure>,
    makes_applications: bool,
}

/// The last deliveries of a kind.
struct Lately {
    rows: Vec<DeliveryRow>,
    /// None among the newest; there are older deliveries, which were not looked at.
    older: bool,
}

struct ApplicationRow {
    link: Link,
    profile: String,
    created: When,
}

pub(crate) async fn show(State(site): State<Site>, visitor: Visitor) -> Shown {
    // This page is over several customers; who came with a customer's key has one.
    if let Scope::Tenant(_, tenant) = visitor.visit.caller.scope() {
        let own = visitor.href(format_args!("/tenants/{tenant}"));
        return Ok(Redirect::to(&own).into_response());
    }
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let now = service.now();
    let (applications, more) = applications(&site, &visitor).await.map_err(&refused)?;
    let listed = async |state| {
        let query = DeliveryQuery {
            state: read_state(Some(state))?,
            ..DeliveryQuery::default()
        };
        let found = service.list_deliveries(who, query, PageRequest::first(SHORT));
        let found = found.await?;
        let row = |listed| DeliveryRow::new(&visitor, listed, now);
        Ok(Lately {
            // A list looks at so many of the newest.
            older: found.rows.is_empty() && found.next.is_some(),
            rows: found.rows.iter().map(row).collect(),
        })
    };
    let failed = listed("failed").await.map_err(&refused)?;
    let waiting = listed("pending").await.map_err(&refused)?;
    let failing = failing(&site, &visitor).await.map_err(&refused)?;
    let ready = service.readiness().await.map_err(&refused)?;
    let nameless = who.user().is_none() && who.is_owner() && {
        let users = service.list_users(who, PageRequest::first(1)).await;
        users.map_err(&refused)?.rows.is_empty()
    };
    let sentence = sentence(applications.len(), &failed, &waiting);
    let row = |application: Application| ApplicationRow {
        link: Link::new(
            format!("/applications/{}", application.id),
            application.name,
        ),
        profile: application.profile,
        created: When::new(application.created_at, now),
    };
    let page = Overview {
        frame: Frame::of(&visitor, "Overview"),
        sentence,
        applications: applications.into_iter().map(row).collect(),
        more,
        failing,
        failed,
        waiting,
        set_aside: ready.set_aside,
        damaged: ready.damaged,
        nameless,
        // Both are the operator's; anybody else has the page without.
        hour: service.last_hour(who).ok().map(|hour| Hour::of(&hour, now)),
        now: figures(service.survey(who).ok()),
        makes_applications: who.scope() == Scope::Root,
    };
    frame::show(&page.frame, &page)
}

/// The first applications that the visitor reaches, and whether there are more.
async fn applications(site: &Site, visitor: &Visitor) -> Result<(Vec<Application>, bool), Refusal> {
    let (service, who) = (site.service(), &visitor.visit.caller);
    Ok(match who.scope() {
        Scope::Root => {
            let first = PageRequest::first(PAGE_ROWS_DEFAULT);
            let page = service.list_applications(who, first).await?;
            (page.rows, page.next.is_some())
        }
        Scope::Application(own) => {
            let own = service.application(who, own).await?;
            (vec![Application::clone(&own)], false)
        }
        Scope::Tenant(..) => (Vec::new(), false),
    })
}

/// Endpoints that have failed for the longest, each with since when.
async fn failing(site: &Site, visitor: &Visitor) -> Result<Vec<EndpointRow>, Refusal> {
    let (service, who) = (site.service(), &visitor.visit.caller);
    let (failing, now) = (
        service.failing_endpoints(who, FAILING).await?,
        service.now(),
    );
    let row = |endpoint: &Endpoint| EndpointRow {
        since: endpoint
            .health
            .failing_since
            .map(|since| When::new(since, now)),
        ..EndpointRow::new(visitor, endpoint, now)
    };
    Ok(failing.iter().map(row).collect())
}

/// The attempts of the last hour.
struct Hour {
    strip: Strip,
    figures: Vec<Figure>,
}

impl Hour {
    fn of(hour: &LastHour, now: Timestamp) -> Self {
        let time = |time: Option<Duration>| time.map_or_else(|| "–".to_owned(), long);
        let second = hour.attempts as f64 / (MINUTES * 60) as f64;
        let second = match hour.attempts {
            0 => "0".to_owned(),
            _ if second < 1.0 => format!("{second:.3}"),
            _ => format!("{second:.1}"),
        };
        let figure = |name, number| Figure {
            name,
            number,
            href: None,
        };
        Self {
            strip: hour_strip(hour, now),
            figures: vec![
                figure("attempts in the last hour", grouped(hour.attempts)),
                figure("a second", second),
                figure(
                    "answered with 2xx",
                    // Read together: no more succeeded than were made.
                    rate(hour.succeeded, hour.attempts - hour.succeeded),
                ),
                figure("half took at most", time(hour.median)),
                figure("99 of 100 at most", time(hour.slowest_hundredth)),
            ],
        }
    }
}

/// A number, and the list behind it where there is one.
struct Figure {
    name: &'static str,
    number: String,
    href: Option<&'static str>,
}

fn figures(survey: Option<Survey>) -> Vec<Figure> {
    let Some(survey) = survey else {
        return Vec::new();
    };
    let of = |standings: &[LaneStanding]| {
        let lanes = survey.lanes.iter();
        lanes
            .filter(|lanes| standings.contains(&lanes.standing))
            .copied()
            .collect::<Vec<_>>()
    };
    let able = of(&[LaneStanding::Ready, LaneStanding::Share, LaneStanding::Busy]);
    let oldest = able
        .iter()
        .map(|lanes| lanes.oldest_due)
        .max()
        .unwrap_or_default();
    let count = |lanes: &[LanesStanding]| lanes.iter().map(|lanes| lanes.lanes as u64).sum();
    let waits: u64 = survey.lanes.iter().map(|lanes| lanes.held as u64).sum();
    let figure = |name, number, href| Figure { name, number, href };
    vec![
        figure("requests under way", grouped(survey.in_flight as u64), None),
        figure(
            "deliveries waiting in memory",
            grouped(waits),
            Some("/deliveries?status=pending"),
        ),
        figure(
            "the oldest that could be sent waits for",
            if oldest.is_zero() {
                "–".to_owned()
            } else {
                long(oldest)
            },
            None,
        ),
        figure(
            "endpoints behind an open breaker",
            grouped(count(&of(&[LaneStanding::Broken]))),
            None,
        ),
    ]
}

fn sentence(applications: usize, failed: &Lately, waiting: &Lately) -> String {
    if applications == 0 {
        return "Nothing is here yet: make the first application.".to_owned();
    }
    let failed = match failed.rows.first() {
        None if failed.older => "None of the newest deliveries has failed".to_owned(),
        None => "No delivery has failed".to_owned(),
        Some(last) => format!(
            "The last delivery that failed was made {}",
            last.created.ago
        ),
    };
    let waiting = match waiting.rows.len() {
        0 if waiting.older => "none of them waits".to_owned(),
        0 => "nothing waits".to_owned(),
        SHORT => format!("{SHORT} or more wait"),
        1 => "1 waits to be delivered".to_owned(),
        some => format!("{some} wait to be delivered"),
    };
    format!("{failed}; {waiting}.")
}
