//! A tenant: its endpoints and how they do, as its own people see them in the portal.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect};
use postrider_core::endpoint::Endpoint;
use postrider_core::profile::Profile;
use postrider_core::tenant::{Mode, Scope, Tenant as CoreTenant};
use postrider_core::{Id, id};
use postrider_service::{
    DeliveryQuery, ErrorCode, KeyShown, NewPortalLink, Page, PageRequest, Refusal, read_state,
};

use crate::Site;
use crate::day::Day;
use crate::door::Visitor;
use crate::fields::Posted;
use crate::frame::{self, Face, Frame, Link, Shown};
use crate::shown::{DeliveryRow, EndpointRow, ROWS, next_by, next_of, page_by, page_of, read};
use crate::words::counted;

/// Failed deliveries on the first page.
const SHORT: usize = 8;
/// Endpoints beyond which one is looked for.
const FINDS_FROM: usize = 10;

#[derive(Template)]
#[template(path = "tenant.html")]
struct Tenant {
    frame: Frame,
    id: String,
    name: String,
    profile: String,
    /// The pages beside this one, where they are not in the rail.
    links: Vec<Link>,
    names: postrider_core::profile::PortalNames,
    makes_keys: bool,
    sentence: String,
    healthy: bool,
    /// None where there is too much to count in a page.
    day: Option<Day>,
    endpoints: Vec<EndpointRow>,
    next: Option<String>,
    /// Whether there are so many endpoints that one is looked for, by what, and whether more may have it.
    finds: bool,
    find: String,
    more_found: bool,
    /// This page.
    here: String,
    /// Whether endpoints are made here: with some profiles they belong to keys.
    own_endpoints: bool,
    keys: Vec<KeyRow>,
    next_keys: Option<String>,
    distributions: Vec<EndpointRow>,
    next_distributions: Option<String>,
    has_distributions: bool,
    failed: Vec<DeliveryRow>,
    operator: bool,
    catches: bool,
}

/// An API key and where its webhooks go.
struct KeyRow {
    href: String,
    name: String,
    public_id: String,
    endpoint: Option<EndpointRow>,
    disabled: bool,
    test: bool,
}

/// The portal's first page.
pub(crate) async fn home(State(site): State<Site>, visitor: Visitor) -> Shown {
    let Some(tenant) = visitor.own_tenant() else {
        return Err(crate::Failure::not_found(site.face));
    };
    page(&site, &visitor, tenant).await
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let id = read(&visitor, &id)?;
    page(&site, &visitor, id).await
}

async fn page(site: &Site, visitor: &Visitor, id: Id<id::Tenant>) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let now = service.now();
    let (tenant, profile) = service.tenant(who, id).await.map_err(&refused)?;
    let find = visitor.query.text("find");
    let listed = listed(site, visitor, id, &find).await;
    let (listed, more_found) = listed.map_err(&refused)?;
    let path = match site.face {
        Face::Portal => site.face.home().to_owned(),
        Face::Console => visitor.href(format_args!("/tenants/{id}")),
    };
    let next = next_of(&listed, &path, &[]);
    let endpoints: Vec<EndpointRow> = listed
        .rows
        .iter()
        .map(|endpoint| EndpointRow::new(visitor, endpoint, now))
        .collect();
    let listed = keys(site, visitor, &tenant, &path).await;
    let (keys, next_keys) = listed.map_err(&refused)?;
    let listed = distributions(site, visitor, id, &profile, &path).await;
    let (distributions, next_distributions) = listed.map_err(&refused)?;
    let failed = failed(site, visitor, id).await.map_err(&refused)?;
    let day = Day::of(site, visitor, id, None).await.map_err(&refused)?;
    let all: Vec<&EndpointRow> = endpoints
        .iter()
        .chain(&distributions)
        .chain(keys.iter().filter_map(|key| key.endpoint.as_ref()))
        .collect();
    let ends = [&next, &next_keys, &next_distributions];
    let more = ends.iter().any(|next| next.is_some()) || is_part(visitor);
    let only_distributions = endpoints.is_empty() && keys.is_empty() && !distributions.is_empty();
    let (sentence, healthy) = sentence(&all, keys.len(), more, only_distributions);
    let (crumbs, links) = match site.face {
        Face::Portal => (Vec::new(), Vec::new()),
        Face::Console => (
            crumbs(service, visitor, &tenant).await,
            frame::tenant_links(visitor, &profile, id),
        ),
    };
    let operator = !matches!(who.scope(), Scope::Tenant(..));
    let page = Tenant {
        frame: Frame::of(visitor, tenant.name.clone()).behind(crumbs),
        id: id.to_string(),
        name: tenant.name.clone(),
        profile: profile.name.clone(),
        links,
        names: profile.portal.clone(),
        // The product gives its customers keys.
        makes_keys: operator,
        sentence,
        healthy,
        day,
        own_endpoints: makes_endpoints(&profile),
        finds: !find.is_empty() || next.is_some() || endpoints.len() > FINDS_FROM,
        find,
        more_found,
        here: path,
        endpoints,
        next,
        keys,
        next_keys,
        distributions,
        next_distributions,
        has_distributions: profile.distribution.is_some(),
        failed,
        operator,
        catches: visitor.catches,
    };
    frame::show(&page.frame, &page)
}

/// Whether the page begins somewhere in a list, or is of what was looked for: all of something is claimed only where all of
/// it was seen.
fn is_part(visitor: &Visitor) -> bool {
    let asked = ["after", "keys", "distributions", "find"];
    asked.iter().any(|name| visitor.query.get(name).is_some())
}

/// A page of its endpoints, or those that have what is looked for, and then whether there are more of them.
async fn listed(
    site: &Site,
    visitor: &Visitor,
    tenant: Id<id::Tenant>,
    find: &str,
) -> Result<(Page<Endpoint>, bool), Refusal> {
    let (service, who) = (site.service(), &visitor.visit.caller);
    if find.trim().is_empty() {
        let asked = page_of(visitor)?;
        let (listed, _) = service.list_endpoints(who, tenant, None, asked).await?;
        return Ok((listed, false));
    }
    let (rows, more) = service.find_endpoints(who, tenant, find, ROWS).await?;
    Ok((Page { rows, next: None }, more))
}

/// A page of its distributions, where its profile has them.
async fn distributions(
    site: &Site,
    visitor: &Visitor,
    tenant: Id<id::Tenant>,
    profile: &Profile,
    path: &str,
) -> Result<(Vec<EndpointRow>, Option<String>), Refusal> {
    if profile.distribution.is_none() {
        return Ok((Vec::new(), None));
    }
    let service = site.service();
    let asked = page_by(visitor, "distributions")?;
    let listed = service.list_distributions(&visitor.visit.caller, tenant, asked);
    let (listed, now) = (listed.await?.0, service.now());
    let next = next_by(&listed, path, "distributions");
    let row = |endpoint| EndpointRow::new(visitor, endpoint, now);
    Ok((listed.rows.iter().map(row).collect(), next))
}

/// The last deliveries that failed.
async fn failed(
    site: &Site,
    visitor: &Visitor,
    tenant: Id<id::Tenant>,
) -> Result<Vec<DeliveryRow>, Refusal> {
    let query = DeliveryQuery {
        tenant: Some(tenant),
        state: read_state(Some("failed"))?,
        ..DeliveryQuery::default()
    };
    let service = site.service();
    let first = PageRequest::first(SHORT);
    let found = service.list_deliveries(&visitor.visit.caller, query, first);
    let (rows, now) = (found.await?.rows, service.now());
    let row = |listed| DeliveryRow::new(visitor, listed, now);
    Ok(rows.iter().map(row).collect())
}

/// Whether endpoints stand by themselves: with some profiles each belongs to an API key.
pub(crate) fn makes_endpoints(profile: &Profile) -> bool {
    profile.secret.scope != postrider_core::profile::SecretScope::ApiKey
}

/// The way to a tenant, as far as the visitor may go it.
pub(crate) async fn crumbs(
    service: &postrider_service::Service,
    visitor: &Visitor,
    tenant: &CoreTenant,
) -> Vec<Link> {
    let who = &visitor.visit.caller;
    match service.application(who, tenant.application).await {
        Ok(application) => vec![
            Link::new("/", "Overview"),
            Link::new(
                format!("/applications/{}", application.id),
                application.name.clone(),
            ),
        ],
        // Not the visitor's to see, or gone: the page itself is shown all the same.
        Err(_) => Vec::new(),
    }
}

/// The way to something of a tenant's.
pub(crate) async fn crumbs_below(site: &Site, visitor: &Visitor, id: Id<id::Tenant>) -> Vec<Link> {
    let home = match site.face {
        Face::Portal => return vec![Link::new("/portal", "Home")],
        Face::Console => format!("/tenants/{id}"),
    };
    let found = site.service().tenant(&visitor.visit.caller, id).await;
    let Ok((tenant, _)) = found else {
        return Vec::new();
    };
    let mut crumbs = crumbs(site.service(), visitor, &tenant).await;
    crumbs.push(Link::new(home, tenant.name.clone()));
    crumbs
}

async fn keys(
    site: &Site,
    visitor: &Visitor,
    tenant: &Arc<CoreTenant>,
    path: &str,
) -> Result<(Vec<KeyRow>, Option<String>), Refusal> {
    let who = &visitor.visit.caller;
    let asked = page_by(visitor, "keys")?;
    let listed = match site.service().list_keys(who, Some(tenant.id), asked).await {
        Ok(listed) => listed,
        // A tenant's key does not see the others.
        Err(refusal) if refusal.code == ErrorCode::ScopeInsufficient => {
            return Ok((Vec::new(), None));
        }
        Err(refusal) => return Err(refusal),
    };
    let next = next_by(&listed, path, "keys");
    let now = site.service().now();
    let row = |shown: KeyShown| KeyRow {
        href: visitor.href(format_args!("/keys/{}", shown.key.id)),
        name: shown.key.name,
        public_id: shown.key.public_id.unwrap_or_default(),
        endpoint: shown
            .endpoint
            .map(|endpoint| EndpointRow::new(visitor, &endpoint, now)),
        disabled: shown.key.disabled_at.is_some(),
        test: shown.key.mode == Mode::Test,
    };
    Ok((listed.rows.into_iter().map(row).collect(), next))
}

fn sentence(
    endpoints: &[&EndpointRow],
    keys: usize,
    more: bool,
    only_distributions: bool,
) -> (String, bool) {
    let (one_of_them, several) = match only_distributions {
        true => ("distribution", "distributions"),
        false => ("endpoint", "endpoints"),
    };
    let ill = |endpoint: &&&EndpointRow| endpoint.standing.word != "healthy";
    let wrong: Vec<_> = endpoints.iter().filter(ill).collect();
    let all = endpoints.len() as u64;
    // A page tells of itself only.
    let here = if more { " on this page" } else { "" };
    match (wrong.as_slice(), all) {
        ([], 0) if keys > 0 => {
            let keys = counted(keys as u64, "API key", "API keys");
            (format!("{keys}{here}, without a webhook so far."), true)
        }
        ([], 0) if more => ("No endpoint on this page.".to_owned(), true),
        ([], 0) => (
            "No endpoint yet: add the first, and events are sent to it.".to_owned(),
            true,
        ),
        ([], 1) if !more => (format!("The {one_of_them} is healthy."), true),
        ([], all) => {
            let are = if all == 1 { "is" } else { "are" };
            let all = counted(all, one_of_them, several);
            let every = if more { "The" } else { "All" };
            (format!("{every} {all}{here} {are} healthy."), true)
        }
        ([one], 1) => (format!("{} is {}.", one.name, one.standing.word), false),
        ([one], all) => {
            let (name, word) = (&one.name, one.standing.word);
            let well = all - 1;
            let told = format!("{name} is {word}; {well} of {all} {several}{here} are healthy.");
            (told, false)
        }
        (wrong, all) => {
            let wrong = wrong.len();
            let told = format!("{wrong} of {all} {several}{here} need somebody to look.");
            (told, false)
        }
    }
}

/// Lets an operator see what the tenant sees.
pub(crate) async fn open_portal(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let visitor = &posted.visitor;
    let refused = visitor.refused();
    let id = read(visitor, &id)?;
    let new = NewPortalLink {
        name: Some(visitor.visit.caller.name().to_owned()),
        lasts_secs: Some(3_600),
        ..NewPortalLink::default()
    };
    let made = site
        .service()
        .create_portal_link(&visitor.visit.caller, id, new)
        .await
        .map_err(&refused)?;
    // On this very server, so the path will do.
    Ok(Redirect::to(made.at("").expose()).into_response())
}

#[cfg(test)]
mod tests {
    use super::{EndpointRow, sentence};
    use crate::words::Standing;

    #[test]
    fn all_of_something_is_claimed_only_where_all_was_seen() {
        let row = |standing| EndpointRow {
            href: String::new(),
            name: "hook".to_owned(),
            url: None,
            events: String::new(),
            standing,
            since: None,
            test: false,
        };
        let healthy = Standing {
            class: "",
            icon: "",
            word: "healthy",
        };
        let (well, ill) = (row(healthy), row(Standing::BROKEN));
        let told = |rows: &[&EndpointRow], more| sentence(rows, 0, more, false).0;
        assert_eq!(told(&[&well, &well], false), "All 2 endpoints are healthy.");
        assert_eq!(
            told(&[&well, &well], true),
            "The 2 endpoints on this page are healthy."
        );
        assert_eq!(
            told(&[&well], true),
            "The 1 endpoint on this page is healthy."
        );
        assert_eq!(told(&[&ill], false), "hook is failed.");
        assert_eq!(
            told(&[&ill, &well], false),
            "hook is failed; 1 of 2 endpoints are healthy."
        );
        assert_eq!(
            told(&[&ill, &ill], true),
            "2 of 2 endpoints on this page need somebody to look."
        );
    }
}
