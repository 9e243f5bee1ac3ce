//! A delivery: what was sent, where, what came back, what happens next and why, and the button for it.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use bytes::Bytes;
use postrider_core::attempt::Attempt;
use postrider_core::delivery::{Delivery as CoreDelivery, DeliveryState, FailReason};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::profile::Profile;
use postrider_core::tenant::Mode;
use postrider_service::{AttemptShown, DeliveryQuery, ErrorCode, PageRequest, Refusal};

use crate::Site;
use crate::chart::{Dot, Machine, timeline};
use crate::door::Visitor;
use crate::fields::Posted;
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::{AttemptShownRow, BodyShown, DeliveryRow, When, name_of, read};
use crate::tenant::crumbs_below;
use crate::words::{self, After, Standing};

/// Other deliveries of the same event that are shown.
const SIBLINGS: usize = 20;
/// Bytes of a body whose signed form is shown, and of all those forms on a page.
const SIGNED_BODY_MAX: usize = 16 * 1024;
const SIGNED_BYTES_MAX: usize = 256 * 1024;

#[derive(Template)]
#[template(path = "delivery.html")]
struct Delivery {
    frame: Frame,
    id: String,
    event: Link,
    event_type: String,
    test: bool,
    standing: Standing,
    headline: String,
    /// Why the last attempt ended as it did.
    why: Option<String>,
    next: Option<When>,
    /// What somebody who wants it delivered does now.
    advice: Option<String>,
    machine: Machine,
    dots: Vec<Dot>,
    attempts: Vec<AttemptShownRow>,
    /// Earlier attempts that are not on the page.
    earlier: u32,
    endpoint: Option<EndpointBadge>,
    schedule: String,
    profile: Link,
    /// Where the last attempt went, if the endpoint has another address now.
    went_to: Option<String>,
    created: When,
    completed: Option<When>,
    siblings: Vec<DeliveryRow>,
    may_resend: bool,
    may_cancel: bool,
    /// What the page shows, while that may change.
    seen: Option<String>,
}

struct EndpointBadge {
    /// None of one that an event has made: it has no page.
    href: Option<String>,
    name: String,
    url: String,
    standing: Standing,
    disabled: bool,
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let now = service.now();
    let id = read(&visitor, &id)?;
    let (delivery, attempts) = service.delivery(who, id).await.map_err(&refused)?;
    // The version that it was accepted under, whatever the profile says by now.
    let profile = service.profiles().version(delivery.profile);
    let profile = profile.ok_or_else(|| refused(Refusal::internal("a profile is missing")))?;
    let (own, siblings) = siblings(&site, &visitor, &delivery)
        .await
        .map_err(&refused)?;
    let endpoint = endpoint(&site, &visitor, &delivery, own)
        .await
        .map_err(&refused)?;
    let crumbs = crumbs_below(&site, &visitor, delivery.tenant).await;
    let crumbs = crumbs.into_iter().chain([Link::new(
        visitor.href(format_args!("/deliveries?tenant={}", delivery.tenant)),
        "Deliveries",
    )]);
    let signed = signed(&site, profile.clone(), &attempts).await?;
    let mut page = page(
        &visitor,
        Frame::of(
            &visitor,
            format!(
                "{} · {}",
                delivery.event_type,
                Standing::of_delivery(&delivery).word
            ),
        )
        .behind(crumbs),
        &delivery,
        &attempts,
        endpoint.as_ref(),
        &profile,
        siblings,
        now,
    );
    for row in &mut page.attempts {
        let made = signed.iter().filter(|(number, ..)| *number == row.number);
        let shown = |bytes: &Vec<u8>| BodyShown::new(&Bytes::from(bytes.clone()), false);
        row.signed = made
            .map(|(_, header, bytes)| (header.clone(), shown(bytes)))
            .collect();
    }
    frame::show(&page.frame, &page)
}

/// What the signatures of attempts are of. A canonical form can be long work: on a thread of its own, one page at a time,
/// and of small bodies, the newest first.
async fn signed(
    site: &Site,
    profile: Arc<Profile>,
    attempts: &[AttemptShown],
) -> Result<Vec<(u32, String, Vec<u8>)>, crate::Failure> {
    let small = |shown: &&AttemptShown| {
        let body = shown.body.as_ref();
        body.is_some_and(|body| body.len() <= SIGNED_BODY_MAX)
    };
    let small: Vec<AttemptShown> = attempts.iter().rev().filter(small).cloned().collect();
    if small.is_empty() || profile.signatures.is_empty() {
        return Ok(Vec::new());
    }
    // Where others keep it busy, the page is shown without.
    let Ok(turn) = site.pages.verifying.clone().try_acquire_owned() else {
        return Ok(Vec::new());
    };
    let work = tokio::task::spawn_blocking(move || {
        // Until the work ends, which it does by itself although its visitor went away.
        let _turn = turn;
        let (mut made, mut bytes) = (Vec::new(), 0);
        for shown in small {
            if bytes > SIGNED_BYTES_MAX {
                break;
            }
            let sent = &shown.attempt.request_headers;
            let header = |name: &str| {
                let named = sent
                    .iter()
                    .find(|(known, _)| known.eq_ignore_ascii_case(name));
                named.map(|(_, value)| value.as_str())
            };
            let body = shown.body.unwrap_or_default();
            for (name, text) in profile.signed(&header, &body) {
                // Two ways of signing may be of the same text.
                let one = (shown.attempt.number, name.to_owned(), text);
                if !made.contains(&one) {
                    bytes += one.2.len();
                    made.push(one);
                }
            }
        }
        made
    });
    work.await.map_err(crate::Failure::internal)
}

#[expect(clippy::too_many_arguments, reason = "all that the page is made of")]
fn page(
    visitor: &Visitor,
    frame: Frame,
    delivery: &CoreDelivery,
    attempts: &[AttemptShown],
    endpoint: Option<&Endpoint>,
    profile: &Arc<Profile>,
    siblings: Vec<DeliveryRow>,
    now: postrider_core::Timestamp,
) -> Delivery {
    let plain: Vec<&Attempt> = attempts.iter().map(|shown| &shown.attempt).collect();
    let mut before = None;
    let mut rows: Vec<AttemptShownRow> = attempts
        .iter()
        .map(|shown| {
            let last = before.replace(&shown.attempt);
            let after = after(delivery, &plain, shown.attempt.number);
            let body = shown.body.as_ref();
            AttemptShownRow::new(&shown.attempt, body, last, profile, after, now)
        })
        .collect();
    // Made in the order of the attempts, since each is told with the one before it.
    rows.reverse();
    let shown = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let waits = delivery.state == DeliveryState::Pending;
    let may_change = frame.may_change();
    let disabled = endpoint.is_some_and(|endpoint| !endpoint.health.is_enabled());
    let allowed = profile.resend.allows(delivery.state);
    Delivery {
        id: delivery.id.to_string(),
        event: Link::new(
            visitor.href(format_args!("/events/{}", delivery.event)),
            delivery.event.to_string(),
        ),
        event_type: delivery.event_type.as_ref().to_owned(),
        test: delivery.mode == Mode::Test,
        standing: Standing::of_delivery(delivery),
        headline: words::headline(delivery, &plain, Some(profile)),
        why: plain
            .last()
            .map(|last| words::why(last, profile, after(delivery, &plain, last.number))),
        next: waits.then(|| When::new(delivery.due_at, now)),
        advice: advice(delivery, endpoint, allowed),
        machine: Machine::of(delivery),
        dots: timeline(delivery, &plain, profile),
        earlier: delivery.attempts.saturating_sub(shown),
        attempts: rows,
        endpoint: endpoint.map(|endpoint| EndpointBadge {
            href: (endpoint.kind != EndpointKind::Callback)
                .then(|| visitor.href(format_args!("/endpoints/{}", endpoint.id))),
            name: name_of(endpoint),
            url: endpoint.url.clone(),
            standing: Standing::of_endpoint(endpoint),
            disabled: !endpoint.health.is_enabled(),
        }),
        schedule: words::schedule(profile.retry(delivery.mode)),
        profile: Link::new(
            visitor.href(format_args!("/profiles/{}", profile.name)),
            profile.name.clone(),
        ),
        went_to: plain
            .last()
            .filter(|last| endpoint.is_some_and(|endpoint| endpoint.url != last.url))
            .map(|last| last.url.clone()),
        created: When::new(delivery.created_at, now),
        completed: delivery.completed_at.map(|at| When::new(at, now)),
        siblings,
        may_resend: may_change
            && !waits
            && allowed
            && endpoint.is_some()
            && (!disabled || profile.resend.while_disabled),
        may_cancel: may_change && waits,
        seen: waits.then(|| seen(delivery)),
        frame,
    }
}

/// What came after an attempt of it.
pub(crate) fn after(delivery: &CoreDelivery, attempts: &[&Attempt], number: u32) -> After {
    // The next one was asked for by somebody: of itself this one was the last.
    let next = attempts.iter().find(|next| next.number == number + 1);
    if next.is_some_and(|next| next.manual) {
        return After::Nothing;
    }
    let last = number == delivery.attempts;
    if last && delivery.state != DeliveryState::Pending {
        After::Nothing
    } else {
        After::Again
    }
}

/// What to do, where something is to be done.
fn advice(delivery: &CoreDelivery, endpoint: Option<&Endpoint>, allowed: bool) -> Option<String> {
    let Some(endpoint) = endpoint else {
        return Some("Its endpoint was deleted: it cannot be sent again.".to_owned());
    };
    let enabled = endpoint.health.is_enabled();
    let paused = matches!(endpoint.kind, EndpointKind::Distribution(_));
    let text = match (delivery.state, enabled) {
        (DeliveryState::Delivered | DeliveryState::Pending, true) => return None,
        (DeliveryState::Pending, false) => {
            "The endpoint is disabled: what waits is ended, unless it is enabled."
        }
        (DeliveryState::Delivered, false) => return None,
        (_, false) if paused => {
            "Its distribution is paused. See why there, test it, make it live, and then send this again."
        }
        (_, false) => {
            "Its endpoint is disabled. See why there, test it, enable it, and then send this again."
        }
        (_, true) if !allowed => "By the rules of its profile it is not sent again.",
        (DeliveryState::Failed(FailReason::Stopped), true) => {
            "Mend what the receiver refuses, or the URL of the endpoint, and then send it again."
        }
        (DeliveryState::Failed(_), true) => "When the receiver is well again, send it again.",
        (DeliveryState::Cancelled | DeliveryState::Skipped, true) => "It can still be sent.",
    };
    Some(text.to_owned())
}

/// Where it goes; none when that was deleted. Those that events have made by naming their URL are nobody's to look
/// at, and are known from the list.
async fn endpoint(
    site: &Site,
    visitor: &Visitor,
    delivery: &CoreDelivery,
    listed: Option<Endpoint>,
) -> Result<Option<Endpoint>, Refusal> {
    if let Some(callback) = listed.filter(|listed| listed.kind == EndpointKind::Callback) {
        return Ok(Some(callback));
    }
    let id = delivery.endpoint.to_string();
    match site.service().endpoint(&visitor.visit.caller, &id).await {
        Ok((endpoint, _)) => Ok(Some(endpoint)),
        Err(refusal) if refusal.code == ErrorCode::NotFound => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// Where the delivery itself went, and the other deliveries of its event.
async fn siblings(
    site: &Site,
    visitor: &Visitor,
    delivery: &CoreDelivery,
) -> Result<(Option<Endpoint>, Vec<DeliveryRow>), Refusal> {
    let service = site.service();
    let query = DeliveryQuery {
        tenant: Some(delivery.tenant),
        event: Some(delivery.event),
        ..DeliveryQuery::default()
    };
    let page = PageRequest::first(SIBLINGS);
    let found = service
        .list_deliveries(&visitor.visit.caller, query, page)
        .await?;
    let now = service.now();
    let (own, others): (Vec<_>, Vec<_>) = found
        .rows
        .into_iter()
        .partition(|listed| listed.delivery.id == delivery.id);
    let own = own.into_iter().find_map(|listed| listed.endpoint);
    let row = |listed| DeliveryRow::new(visitor, listed, now);
    Ok((own, others.iter().map(row).collect()))
}

/// How it stands, in a word that changes when it does: for pages that wait.
pub(crate) async fn glance(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let id = read(&visitor, &id)?;
    let found = site.service().glance(&visitor.visit.caller, id).await;
    Ok(frame::word(seen(&found.map_err(visitor.refused())?)))
}

fn seen(delivery: &CoreDelivery) -> String {
    let (state, attempts) = (delivery.state.as_str(), delivery.attempts);
    format!("{state} {attempts}")
}

/// The buttons.
pub(crate) async fn act(
    State(site): State<Site>,
    Path((id, act)): Path<(String, String)>,
    posted: Posted,
) -> Shown {
    let visitor = &posted.visitor;
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let id = read(visitor, &id)?;
    let done = match act.as_str() {
        "resend" => service.resend(who, id).await.map(|_| "resent"),
        "cancel" => service.cancel(who, id).await.map(|_| "cancelled"),
        _ => return Err(crate::Failure::not_found(site.face)),
    };
    let done = done.map_err(&refused)?;
    Ok(visitor.back_to(format_args!("/deliveries/{id}"), done))
}
