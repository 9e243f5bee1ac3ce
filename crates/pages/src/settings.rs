//! A tenant's settings: the secret that signs for it, as its profile shows it, and the addresses to let in.

use std::time::Duration;

use askama::Template;
use axum::extract::{Path, State};
use postrider_core::profile::{SecretScope, Visibility};
use postrider_core::tenant::{Mode, Scope};
use postrider_core::{Id, Secret, Timestamp, id};
use postrider_service::{NodeStanding, Refusal, RetentionRound, TenantPatch};

use crate::Site;
use crate::deletion::deletes_tenants;
use crate::door::Visitor;
use crate::endpoint::tenant_of;
use crate::endpoint_form::{changed_notes, written_notes};
use crate::failure::Failure;
use crate::fields::{Fields, OVERTAKEN, Posted, is_overtaken, seen};
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::When;
use crate::tenant::crumbs_below;
use crate::words;

#[derive(Template)]
#[template(path = "settings.html")]
struct Settings {
    frame: Frame,
    heading: String,
    tenant: String,
    name: String,
    external_id: Option<String>,
    /// What the product changes of its customer.
    own: Option<Own>,
    deletes: bool,
    created: When,
    secrets: Vec<SecretRow>,
    /// Whether one secret signs for all endpoints, or each has its own.
    of_tenant: bool,
    shows: bool,
    addresses: Vec<Region>,
    problem: Option<String>,
}

/// What the product calls its customer, as it is or as it was typed.
struct Own {
    name: String,
    external_id: String,
    /// None where lines do not say them.
    metadata: Option<String>,
    /// What the form shows, to be known when it comes back.
    shown: String,
    seen: String,
}

struct SecretRow {
    mode: &'static str,
    since: When,
    /// Only in the answer to who asked for it.
    text: Option<String>,
}

struct Region {
    name: String,
    addresses: Vec<String>,
    own: bool,
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
    let tenant = tenant_of(visitor, id)?;
    let now = service.now();
    let (found, profile) = service.tenant(who, tenant).await.map_err(&refused)?;
    let own = match who.own_mode() {
        Mode::Live => vec![Mode::Live, Mode::Test],
        Mode::Test => vec![Mode::Test],
    };
    let text = |mode: Mode| {
        let asked = answer.secret.as_ref().filter(|(of, _)| *of == mode);
        asked.map(|(_, secret)| secret.expose().to_owned())
    };
    let (regions, default) = service.regions();
    let region = found.settings.region.as_deref().or(default);
    let page = Settings {
        frame: Frame::of(visitor, profile.portal.settings.clone())
            .behind(crumbs_below(site, visitor, tenant).await),
        heading: profile.portal.settings.clone(),
        tenant: tenant.to_string(),
        name: found.name.clone(),
        // It is the product's.
        external_id: (!matches!(who.scope(), Scope::Tenant(..)))
            .then(|| found.external_id.clone())
            .flatten(),
        deletes: deletes_tenants(visitor),
        own: (!matches!(who.scope(), Scope::Tenant(..)) && !who.is_read_only()).then(|| {
            answer.typed.unwrap_or_else(|| Own {
                name: found.name.clone(),
                external_id: found.external_id.clone().unwrap_or_default(),
                metadata: written_notes(&found.metadata),
                shown: written_notes(&found.metadata).unwrap_or_default(),
                seen: seen(found.updated_at),
            })
        }),
        created: When::new(found.created_at, now),
        secrets: own
            .into_iter()
            .map(|mode| SecretRow {
                mode: mode.as_str(),
                since: When::new(found.secret(mode).since, now),
                text: text(mode),
            })
            .collect(),
        of_tenant: profile.secret.scope == SecretScope::Tenant,
        shows: profile.secret.show == Visibility::Always,
        addresses: regions
            .iter()
            .map(|info| Region {
                name: info.name.clone(),
                addresses: info.published.iter().map(ToString::to_string).collect(),
                own: region == Some(info.name.as_str()),
            })
            .collect(),
        problem: answer.problem,
    };
    frame::show(&page.frame, &page)
}

/// What an act leaves to be shown on the page.
#[derive(Default)]
struct Answer {
    secret: Option<(Mode, Secret)>,
    typed: Option<Own>,
    problem: Option<String>,
}

/// Changes what the product calls its customer.
async fn change_own(
    site: &Site,
    visitor: &Visitor,
    id: &str,
    tenant: Id<id::Tenant>,
    fields: &Fields,
) -> Shown {
    let (service, who) = (site.service(), &visitor.visit.caller);
    let found = service.tenant(who, tenant).await;
    let (stored, _) = found.map_err(visitor.refused())?;
    let mut typed = Own {
        name: fields.text("name"),
        external_id: fields.text("external_id"),
        metadata: written_notes(&stored.metadata).map(|_| fields.text("metadata")),
        shown: fields.text("metadata_shown"),
        seen: fields.text("seen"),
    };
    if is_overtaken(fields, stored.updated_at) {
        typed.seen = seen(stored.updated_at);
        let answer = Answer {
            problem: Some(OVERTAKEN.to_owned()),
            typed: Some(typed),
            ..Answer::default()
        };
        return page(site, visitor, id, answer).await;
    }
    let patch = || {
        Ok::<_, Refusal>(TenantPatch {
            name: Some(typed.name.clone()),
            external_id: Some(fields.get("external_id").map(str::to_owned)),
            metadata: changed_notes(fields)?.map(Some),
            settings: None,
        })
    };
    let changed = match patch() {
        Ok(patch) => service.change_tenant(who, tenant, patch).await.map(drop),
        Err(refusal) => Err(refusal),
    };
    match changed {
        Ok(()) => Ok(visitor.back_to(format_args!("/tenants/{tenant}/settings"), "changed")),
        Err(refusal) => {
            let answer = Answer {
                problem: Some(visitor.told_why(refusal)?),
                typed: Some(typed),
                ..Answer::default()
            };
            page(site, visitor, id, answer).await
        }
    }
}

/// Shows the secret or makes another one, or changes what the product calls its customer.
pub(crate) async fn act(
    State(site): State<Site>,
    Path((id, act)): Path<(String, String)>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let tenant = tenant_of(&visitor, &id)?;
    let (service, who) = (site.service(), &visitor.visit.caller);
    if act == "own" {
        return change_own(&site, &visitor, &id, tenant, &fields).await;
    }
    let mode = crate::deliveries::mode(fields.get("mode"));
    let asked: Result<(Mode, Secret), Refusal> = match (act.as_str(), mode) {
        ("secret" | "rotate", Err(refusal)) => Err(refusal),
        ("secret", Ok(mode)) => service.tenant_secret(who, tenant, mode).await,
        ("rotate", Ok(mode)) => service.rotate_tenant_secret(who, tenant, mode, None).await,
        _ => return Err(Failure::not_found(site.face)),
    };
    match asked {
        Ok(secret) => {
            let answer = Answer {
                secret: Some(secret),
                ..Answer::default()
            };
            page(&site, &visitor, &id, answer).await
        }
        Err(refusal) => {
            let answer = Answer {
                problem: Some(visitor.told_why(refusal)?),
                ..Answer::default()
            };
            page(&site, &visitor, &id, answer).await
        }
    }
}

#[derive(Template)]
#[template(path = "system.html")]
struct System {
    frame: Frame,
    sentence: String,
    facts: Vec<(&'static str, String)>,
    profiles: Vec<String>,
    addresses: Vec<Region>,
    /// Where the node that leads is reached by the others; none where it is alone, or the visitor may not see it.
    leader: Option<String>,
    followers: Vec<Follower>,
}

/// A node that follows.
struct Follower {
    url: String,
    version: String,
    follows_for: String,
    under_way: String,
    attempts: String,
}

fn kept(days: u32) -> String {
    match days {
        0 => "for ever".to_owned(),
        days => words::counted(u64::from(days), "day", "days"),
    }
}

fn forgotten(last: Option<RetentionRound>, now: Timestamp) -> String {
    let Some(RetentionRound {
        at,
        pruned,
        used_bytes,
    }) = last
    else {
        return "there was none yet since the start".to_owned();
    };
    let events = words::counted(pruned.events, "event", "events");
    let deliveries = words::counted(pruned.deliveries, "delivery", "deliveries");
    let megabytes = words::grouped(used_bytes / 1_000_000);
    format!(
        "{events} and {deliveries}, {}; {megabytes} MB are stored",
        words::ago(at, now)
    )
}

/// How the server itself is.
pub(crate) async fn system(State(site): State<Site>, visitor: Visitor) -> Shown {
    let refused = visitor.refused();
    let service = site.service();
    let ready = service.readiness().await.map_err(&refused)?;
    let (regions, default) = service.regions();
    // How much there is of everybody's is for who runs the server.
    let is_operator = matches!(visitor.visit.caller.scope(), Scope::Root);
    let well = !is_operator || (ready.set_aside == 0 && ready.damaged == 0);
    let now: Timestamp = service.now();
    let (rule, last) = service.retention();
    // Whoever may not see them has the page without.
    let nodes = service.nodes(&visitor.visit.caller).ok().flatten();
    let (leader, followers) = nodes.map(|nodes| (nodes.leader, nodes.followers)).unzip();
    let follower = |node: NodeStanding| Follower {
        url: node.url,
        version: node.version,
        follows_for: words::long(Duration::from_secs(node.follows_for.as_secs())),
        under_way: words::grouped(node.under_way as u64),
        attempts: words::grouped(node.attempts),
    };
    let followers = followers.unwrap_or_default();
    let followers = followers.into_iter().map(follower).collect();
    let mut facts = vec![
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Clock", now.to_string()),
    ];
    if is_operator {
        let set_aside = ready.set_aside.to_string();
        facts.push(("Deliveries set aside until the next start", set_aside));
        facts.push(("Rows that cannot be read", ready.damaged.to_string()));
    }
    facts.push(("What has ended is kept", kept(rule.days)));
    facts.push(("The audit log is kept", kept(rule.audit_days)));
    if is_operator {
        facts.push(("Forgotten in the last round", forgotten(last, now)));
    }
    let page = System {
        frame: Frame::of(&visitor, "System").behind([Link::new("/", "Overview")]),
        sentence: if well {
            match is_operator {
                true => "The store takes writes, and all that is stored can be read.".to_owned(),
                false => "The store takes writes.".to_owned(),
            }
        } else {
            "Somebody has to look: see what was set aside or cannot be read.".to_owned()
        },
        facts,
        leader,
        followers,
        profiles: service.profiles().names(),
        addresses: regions
            .iter()
            .map(|info| Region {
                name: info.name.clone(),
                addresses: info.published.iter().map(ToString::to_string).collect(),
                own: default == Some(info.name.as_str()),
            })
            .collect(),
    };
    frame::show(&page.frame, &page)
}
