//! An endpoint: how it does in one sentence, and the acts that change that.

use askama::Template;
use axum::extract::{Path, State};
use postrider_core::attempt::Attempt;
use postrider_core::delivery::DeliveryState;
use postrider_core::endpoint::{Endpoint as CoreEndpoint, EndpointKind, Ordering};
use postrider_core::filter::ContentFilter;
use postrider_core::profile::{SecretScope, Visibility};
use postrider_core::tenant::{Mode, Scope};
use postrider_core::{Id, id};
use postrider_service::{
    DeliveryListed, DeliveryQuery, EndpointPatch, PageRequest, Refusal, Rotation, TestAsked, Tested,
};

use crate::Site;
use crate::day::Day;
use crate::door::Visitor;
use crate::failure::Failure;
use crate::fields::{Fields, Posted};
use crate::frame::{self, Face, Frame, Link, Shown};
use crate::lane;
use crate::shown::{AttemptShownRow, DeliveryRow, When, name_of, read};
use crate::tenant::crumbs_below;
use crate::words::{self, After, Standing};

const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
/// Deliveries among which the attempt that ended last is looked for.
const LOOKED_AT: usize = 50;
/// Deliveries on the page of their endpoint.
const RECENT: usize = 12;

#[derive(Template)]
#[template(path = "endpoint.html")]
struct Endpoint {
    frame: Frame,
    id: String,
    wire_id: String,
    tenant: String,
    name: String,
    url: String,
    sentence: String,
    standing: Standing,
    test: bool,
    enabled: bool,
    distribution: bool,
    /// Whether it has a secret, or its tenant has one for all.
    own_secret: bool,
    /// The profile shows a secret again after it was made.
    shows_secret: bool,
    /// Whether the visitor may enable or disable it: those of keys are their product's.
    switches: bool,
    /// Where it is changed.
    change: Option<String>,
    deletes: bool,
    catches_up: bool,
    /// Where catching up begins when nobody says otherwise.
    day_ago: String,
    events: Vec<String>,
    filter: Option<String>,
    headers: Vec<String>,
    details: Vec<(&'static str, String)>,
    schedule: String,
    profile: Link,
    created: When,
    updated: When,
    day: Option<Day>,
    /// How its lane stands.
    now: Option<String>,
    recent: Vec<DeliveryRow>,
    rotates: bool,
    /// The answer to what was just asked, where it is shown here.
    test_call: Option<TestShown>,
    secret: Option<SecretShown>,
    problem: Option<String>,
    /// What was typed as the data of a test.
    data: String,
}

/// How a test went.
pub(crate) struct TestShown {
    /// What was tried: `The test`, or a type and where it went.
    pub(crate) subject: String,
    pub(crate) success: bool,
    pub(crate) attempt: AttemptShownRow,
}

struct SecretShown {
    secret: String,
    public_key: Option<String>,
    previous: Option<When>,
    fresh: bool,
}

/// What an act leaves to be shown on the page.
#[derive(Default)]
struct Answer {
    /// What was to be sent as a test.
    data: String,
    test_call: Option<TestShown>,
    secret: Option<SecretShown>,
    problem: Option<String>,
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    page(&site, &visitor, &id, Answer::default()).await
}

async fn page(site: &Site, visitor: &Visitor, id: &str, answer: Answer) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let now = service.now();
    let (endpoint, current) = service.endpoint(who, id).await.map_err(&refused)?;
    let profile = &current.profile;
    let query = DeliveryQuery {
        tenant: Some(endpoint.tenant),
        endpoint: Some(endpoint.id),
        ..DeliveryQuery::default()
    };
    let recent = service.list_deliveries(who, query, PageRequest::first(LOOKED_AT));
    let recent = recent.await.map_err(&refused)?.rows;
    let last = last_of(&recent);
    let day = Day::of(site, visitor, endpoint.tenant, Some(endpoint.id))
        .await
        .map_err(&refused)?;
    let row = |listed: &DeliveryListed| DeliveryRow::new(visitor, listed, now);
    let crumbs = crumbs_below(site, visitor, endpoint.tenant).await;
    let page = Endpoint {
        frame: Frame::of(visitor, name_of(&endpoint)).behind(crumbs),
        id: endpoint.id.to_string(),
        wire_id: profile.endpoint_id(endpoint.id, &endpoint.kind),
        tenant: endpoint.tenant.to_string(),
        name: name_of(&endpoint),
        sentence: words::of_endpoint(&endpoint, last, profile),
        standing: Standing::of_endpoint(&endpoint),
        test: endpoint.mode == Mode::Test,
        enabled: endpoint.health.is_enabled(),
        distribution: matches!(endpoint.kind, EndpointKind::Distribution(_)),
        own_secret: profile.secret.scope != SecretScope::Tenant,
        shows_secret: profile.secret.show == Visibility::Always,
        switches: switches(visitor, &endpoint),
        change: change(visitor, &endpoint),
        catches_up: endpoint.health.is_enabled() && endpoint.kind != EndpointKind::Callback,
        day_ago: minute(now.minus(DAY)),
        deletes: matches!(
            endpoint.kind,
            EndpointKind::Registered | EndpointKind::Distribution(_)
        ),
        events: endpoint.subscription.patterns().to_vec(),
        filter: endpoint.filter.as_ref().map(ContentFilter::text),
        headers: endpoint
            .headers
            .iter()
            .map(|header| header.name.clone())
            .collect(),
        details: details(visitor, &endpoint),
        schedule: words::schedule(profile.retry(endpoint.mode)),
        profile: Link::new(
            visitor.href(format_args!("/profiles/{}", profile.name)),
            profile.name.clone(),
        ),
        created: When::new(endpoint.created_at, now),
        updated: When::new(endpoint.updated_at, now),
        day,
        now: service
            .lane(&endpoint)
            .and_then(|found| lane::sentence(found, endpoint.ordering)),
        recent: recent.iter().take(RECENT).map(row).collect(),
        rotates: endpoint.kind == EndpointKind::Registered && profile.secret.overlap.is_some(),
        url: endpoint.url,
        test_call: answer.test_call,
        secret: answer.secret,
        problem: answer.problem,
        data: answer.data,
    };
    frame::show(&page.frame, &page)
}

/// The attempt that ended last.
fn last_of(recent: &[DeliveryListed]) -> Option<&Attempt> {
    let sent = recent
        .iter()
        .filter(|listed| listed.delivery.state != DeliveryState::Skipped);
    // The list goes by when they were made; a retry of an older one may have ended after the newest.
    sent.filter_map(|listed| listed.last.as_ref())
        .max_by_key(|last| last.ended_at)
}

/// Whether the visitor may enable or disable it: those of keys are their product's.
fn switches(visitor: &Visitor, endpoint: &CoreEndpoint) -> bool {
    match endpoint.kind {
        EndpointKind::Registered | EndpointKind::Distribution(_) => true,
        EndpointKind::Key(_) => {
            let of_tenant = matches!(visitor.visit.caller.scope(), Scope::Tenant(..));
            !endpoint.health.is_enabled() && !of_tenant
        }
        EndpointKind::Callback => false,
    }
}

/// Where it is changed: those of keys and distributions with what they belong to.
fn change(visitor: &Visitor, endpoint: &CoreEndpoint) -> Option<String> {
    let path = match &endpoint.kind {
        EndpointKind::Registered => format!("/endpoints/{}/edit", endpoint.id),
        EndpointKind::Distribution(_) => format!("/distributions/{}/edit", endpoint.id),
        EndpointKind::Key(key) => format!("/keys/{key}"),
        EndpointKind::Callback => return None,
    };
    Some(visitor.href(path))
}

/// A time as it is typed: `2026-11-28T10:34`.
fn minute(at: postrider_core::Timestamp) -> String {
    let mut text = at.to_string();
    // In bytes, of a text that is ASCII and longer.
    text.truncate(16);
    text
}

fn details(visitor: &Visitor, endpoint: &CoreEndpoint) -> Vec<(&'static str, String)> {
    let mut details = Vec::new();
    if !matches!(visitor.visit.caller.scope(), Scope::Tenant(..)) {
        details.extend(endpoint.external_id.clone().map(|id| ("Your id", id)));
        let notes = endpoint.metadata.iter();
        let notes: Vec<String> = notes
            .map(|(name, note)| format!("{name}: {note}"))
            .collect();
        if !notes.is_empty() {
            details.push(("Your notes", notes.join(", ")));
        }
    }
    if let Some(rate) = endpoint.rate_limit {
        details.push(("Rate", format!("{rate} deliveries a second at most")));
    }
    match endpoint.ordering {
        Ordering::None => {}
        Ordering::Endpoint => {
            details.push(("Order", "one after the other, as published".to_owned()))
        }
        Ordering::Key => details.push((
            "Order",
            "those with the same ordering key one after the other".to_owned(),
        )),
    }
    if endpoint.form {
        details.push(("Body", "a form".to_owned()));
    }
    match &endpoint.kind {
        EndpointKind::Registered => {}
        EndpointKind::Callback => {
            details.push(("Kind", "made by the events that name its URL".to_owned()))
        }
        EndpointKind::Key(key) => details.push(("Kind", format!("belongs to the API key {key}"))),
        EndpointKind::Distribution(distribution) => {
            details.push((
                "Kind",
                format!("a distribution, sent as {}", distribution.event_name),
            ));
        }
    }
    details
}

/// The buttons. What was wrong, and what may be seen but once, is shown on the page itself.
pub(crate) async fn act(
    State(site): State<Site>,
    Path((id, act)): Path<(String, String)>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let done = match act.as_str() {
        "enable" => set_active(&site, &visitor, &id, true).await,
        "disable" => set_active(&site, &visitor, &id, false).await,
        "delete" => return delete(&site, &visitor, &id).await,
        "test" => test(&site, &visitor, &id, &fields).await,
        "secret" => secret(&site, &visitor, &id).await,
        "rotate" => rotate(&site, &visitor, &id).await,
        _ => return Err(Failure::not_found(site.face)),
    };
    match done {
        Ok(Done::Told(word)) => Ok(visitor.back_to(format_args!("/endpoints/{id}"), word)),
        Ok(Done::Shown(answer)) => page(&site, &visitor, &id, *answer).await,
        Err(refusal) => {
            let answer = Answer {
                data: fields.text("data"),
                problem: Some(visitor.told_why(refusal)?),
                ..Answer::default()
            };
            page(&site, &visitor, &id, answer).await
        }
    }
}

enum Done {
    Told(&'static str),
    Shown(Box<Answer>),
}

async fn set_active(
    site: &Site,
    visitor: &Visitor,
    id: &str,
    active: bool,
) -> Result<Done, Refusal> {
    let (service, who) = (site.service(), &visitor.visit.caller);
    let (endpoint, _) = service.endpoint(who, id).await?;
    match &endpoint.kind {
        EndpointKind::Distribution(_) => {
            let patch = postrider_service::DistributionPatch {
                status: Some(if active {
                    postrider_service::Activity::Live
                } else {
                    postrider_service::Activity::Paused
                }),
                ..Default::default()
            };
            service.change_distribution(who, id, patch).await?;
        }
        // With its key, which may be what turned it off.
        EndpointKind::Key(key) if active => {
            let patch = postrider_service::KeyPatch {
                active: Some(true),
                ..Default::default()
            };
            service.change_key(who, *key, patch).await?;
        }
        EndpointKind::Registered | EndpointKind::Callback | EndpointKind::Key(_) => {
            let patch = EndpointPatch {
                active: Some(active),
                ..EndpointPatch::default()
            };
            service.change_endpoint(who, id, patch).await?;
        }
    }
    Ok(Done::Told(if active { "enabled" } else { "disabled" }))
}

async fn delete(site: &Site, visitor: &Visitor, id: &str) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let (endpoint, _) = service.endpoint(who, id).await.map_err(&refused)?;
    let deleted = match endpoint.kind {
        EndpointKind::Distribution(_) => service.delete_distribution(who, id).await,
        _ => service.delete_endpoint(who, id).await,
    };
    deleted.map_err(&refused)?;
    Ok(visitor.back_to(home_of(visitor, endpoint.tenant), "deleted"))
}

/// The page of a tenant, below the face's own path.
pub(crate) fn home_of(visitor: &Visitor, tenant: Id<id::Tenant>) -> String {
    match visitor.face {
        Face::Portal => String::new(),
        Face::Console => format!("/tenants/{tenant}"),
    }
}

async fn test(site: &Site, visitor: &Visitor, id: &str, fields: &Fields) -> Result<Done, Refusal> {
    let subject = "The test".to_owned();
    let asked = TestAsked {
        event_type: fields.get("type").map(str::to_owned),
        data: fields.get("data").map(str::to_owned),
    };
    let shown = tested(site, visitor, id, asked, subject).await?;
    Ok(Done::Shown(Box::new(Answer {
        data: fields.text("data"),
        test_call: Some(shown),
        ..Answer::default()
    })))
}

/// Sends a test of this type, or of the profile's own, to an endpoint.
pub(crate) async fn tested(
    site: &Site,
    visitor: &Visitor,
    id: &str,
    asked: TestAsked,
    subject: String,
) -> Result<TestShown, Refusal> {
    let (service, who) = (site.service(), &visitor.visit.caller);
    let Tested {
        success,
        attempt,
        body,
        profile,
    } = service.test_endpoint(who, id, asked).await?;
    Ok(TestShown {
        subject,
        success,
        attempt: AttemptShownRow::new(
            &attempt,
            Some(&body),
            None,
            &profile,
            After::Test,
            service.now(),
        ),
    })
}

async fn secret(site: &Site, visitor: &Visitor, id: &str) -> Result<Done, Refusal> {
    let (service, who) = (site.service(), &visitor.visit.caller);
    let found = service.endpoint_secret(who, id).await?;
    Ok(Done::Shown(Box::new(Answer {
        secret: Some(shown_secret(&found, false, service.now())),
        ..Answer::default()
    })))
}

async fn rotate(site: &Site, visitor: &Visitor, id: &str) -> Result<Done, Refusal> {
    let (service, who) = (site.service(), &visitor.visit.caller);
    let made = service
        .rotate_endpoint_secret(who, id, &Rotation::default())
        .await?;
    Ok(Done::Shown(Box::new(Answer {
        secret: Some(shown_secret(&made, true, service.now())),
        ..Answer::default()
    })))
}

fn shown_secret(
    found: &postrider_service::SecretShown,
    fresh: bool,
    now: postrider_core::Timestamp,
) -> SecretShown {
    SecretShown {
        secret: found.secret.expose().to_owned(),
        public_key: found.public_key.clone(),
        previous: found.previous_valid_until.map(|at| When::new(at, now)),
        fresh,
    }
}

/// An endpoint that was just made: its secret is shown with it, once.
pub(crate) async fn show_made(
    site: &Site,
    visitor: &Visitor,
    made: &postrider_service::EndpointMade,
) -> Shown {
    let answer = Answer {
        secret: Some(SecretShown {
            secret: made.secret.expose().to_owned(),
            public_key: made.public_key.clone(),
            previous: None,
            fresh: true,
        }),
        ..Answer::default()
    };
    page(site, visitor, &made.endpoint.id.to_string(), answer).await
}

/// Reads the id in an address.
pub(crate) fn tenant_of(visitor: &Visitor, text: &str) -> Result<Id<id::Tenant>, Failure> {
    read(visitor, text)
}
