//! The catcher: an address here, for whoever has no server to send to yet.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use postrider_core::profile::VerifyError;
use postrider_core::{Id, id};
use postrider_service::{AsAskedFor, CatcherListed, Caught, CaughtRequest, CaughtVerdict, Refusal};

use crate::Site;
use crate::door::Visitor;
use crate::endpoint::tenant_of;
use crate::failure::Failure;
use crate::fields::{Fields, Posted, read_from};
use crate::frame::{self, Face, Frame, Link, Shown};
use crate::shown::{BodyShown, When, name_of};
use crate::tenant::crumbs_below;
use crate::words::{counted, grouped};

/// Bytes of a request that are read.
const REQUEST_BYTES_MAX: usize = 256 * 1024;

#[derive(Template)]
#[template(path = "catchers.html")]
struct Catchers {
    frame: Frame,
    tenant: String,
    rows: Vec<CatcherRow>,
}

struct CatcherRow {
    href: String,
    /// The end of its address.
    name: String,
    made: When,
    ends: When,
    count: String,
}

pub(crate) async fn list(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let tenant = tenant_of(&visitor, &id)?;
    let (service, who) = (site.service(), &visitor.visit.caller);
    let found = service.catchers(who, tenant).await;
    let found = found.map_err(visitor.refused())?;
    let now = service.now();
    let row = |listed: CatcherListed| CatcherRow {
        name: format!("…{}", end_of(&listed.code)),
        href: visitor.href(format_args!("/tenants/{tenant}/catchers/{}", listed.code)),
        made: When::new(listed.made_at, now),
        ends: When::new(listed.ends_at, now),
        count: counted(listed.count, "request", "requests"),
    };
    let page = Catchers {
        frame: Frame::of(&visitor, "Catcher").behind(crumbs_below(&site, &visitor, tenant).await),
        tenant: tenant.to_string(),
        rows: found.into_iter().map(row).collect(),
    };
    frame::show(&page.frame, &page)
}

pub(crate) async fn create(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let visitor = posted.visitor;
    let tenant = tenant_of(&visitor, &id)?;
    let made = site
        .service()
        .make_catcher(&visitor.visit.caller, tenant)
        .await;
    let code = made.map_err(visitor.refused())?.code;
    Ok(visitor.back_to(format_args!("/tenants/{tenant}/catchers/{code}"), "catcher"))
}

#[derive(Template)]
#[template(path = "catcher.html")]
struct Catcher {
    frame: Frame,
    here: String,
    url: String,
    /// Where an endpoint with its address is made; none where endpoints belong to keys.
    add: Option<String>,
    sentence: String,
    ends: When,
    rows: Vec<CaughtRow>,
    seen: u64,
}

/// As much of a code as tells it from others.
fn end_of(code: &str) -> &str {
    const SHOWN: usize = 8;
    let from = code.len().saturating_sub(SHOWN);
    code.get(from..).unwrap_or(code)
}

struct CaughtRow {
    href: String,
    at: When,
    method: String,
    what: String,
    bytes: String,
    status: u16,
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path((id, code)): Path<(String, String)>,
) -> Shown {
    let refused = visitor.refused();
    let tenant = tenant_of(&visitor, &id)?;
    let (service, who) = (site.service(), &visitor.visit.caller);
    let (listed, caught) = service.caught(who, tenant, &code).await.map_err(&refused)?;
    let (_, profile) = service.tenant(who, tenant).await.map_err(&refused)?;
    let now = service.now();
    let here = visitor.href(format_args!("/tenants/{tenant}/catchers/{code}"));
    let url = format!("{}/catch/{code}", visitor.base);
    let row = |caught: &Arc<Caught>| CaughtRow {
        href: format!("{here}/{}", caught.number),
        at: When::new(caught.at, now),
        method: caught.method.clone(),
        what: caught.about.clone(),
        bytes: grouped(caught.bytes as u64),
        status: caught.status,
    };
    let rows: Vec<CaughtRow> = caught.iter().map(row).collect();
    let kept = rows.len() as u64;
    let sentence = match listed.count {
        0 => "Nothing came yet: add an endpoint with this address and send it a test.".to_owned(),
        all if kept == 0 => {
            let came = counted(all, "request", "requests");
            format!("{came} came, and there was no room to keep it.")
        }
        all if all == kept => format!("{} came.", counted(all, "request", "requests")),
        all => format!(
            "{} came; these are the newest.",
            counted(all, "request", "requests")
        ),
    };
    let encoded: String = url::form_urlencoded::byte_serialize(url.as_bytes()).collect();
    let frame = Frame::of(&visitor, "Catcher").behind(crumbs(&site, &visitor, tenant).await);
    let page = Catcher {
        add: (frame.may_change() && crate::tenant::makes_endpoints(&profile)).then(|| {
            visitor.href(format_args!(
                "/tenants/{tenant}/endpoints/new?url={encoded}"
            ))
        }),
        frame,
        here,
        url,
        sentence,
        ends: When::new(listed.ends_at, now),
        rows,
        seen: listed.count,
    };
    frame::show(&page.frame, &page)
}

async fn crumbs(site: &Site, visitor: &Visitor, tenant: Id<id::Tenant>) -> Vec<Link> {
    let mut crumbs = crumbs_below(site, visitor, tenant).await;
    let list = visitor.href(format_args!("/tenants/{tenant}/catchers"));
    crumbs.push(Link::new(list, "Catcher"));
    crumbs
}

/// How many came: for a page that waits.
pub(crate) async fn glance(
    State(site): State<Site>,
    visitor: Visitor,
    Path((id, code)): Path<(String, String)>,
) -> Shown {
    let tenant = tenant_of(&visitor, &id)?;
    let who = &visitor.visit.caller;
    let count = site.service().count_caught(who, tenant, &code).await;
    let count = count.map_err(visitor.refused())?;
    Ok(frame::word(count.to_string()))
}

pub(crate) async fn end(
    State(site): State<Site>,
    Path((id, code)): Path<(String, String)>,
    posted: Posted,
) -> Shown {
    let visitor = posted.visitor;
    let tenant = tenant_of(&visitor, &id)?;
    let who = &visitor.visit.caller;
    let ended = site.service().end_catcher(who, tenant, &code).await;
    ended.map_err(visitor.refused())?;
    Ok(visitor.back_to(format_args!("/tenants/{tenant}/catchers"), "catcher-ended"))
}

#[derive(Template)]
#[template(path = "caught.html")]
struct CaughtPage {
    frame: Frame,
    number: u64,
    at: When,
    line: String,
    headers: Vec<(String, String)>,
    body: BodyShown,
    status: u16,
    well: bool,
    verdict: String,
}

pub(crate) async fn show_one(
    State(site): State<Site>,
    visitor: Visitor,
    Path((id, code, number)): Path<(String, String, String)>,
) -> Shown {
    let tenant = tenant_of(&visitor, &id)?;
    let (service, who) = (site.service(), &visitor.visit.caller);
    let number = number.parse();
    let number = number.map_err(|_| visitor.refused()(Refusal::not_found("request")))?;
    let found = service.caught_one(who, tenant, &code, number).await;
    let (caught, verdict) = found.map_err(visitor.refused())?;
    let mut crumbs = crumbs(&site, &visitor, tenant).await;
    let list = visitor.href(format_args!("/tenants/{tenant}/catchers/{code}"));
    crumbs.push(Link::new(list, "Requests"));
    let (well, verdict) = told(&verdict);
    let page = CaughtPage {
        frame: Frame::of(&visitor, format!("Request {number}")).behind(crumbs),
        number,
        at: When::new(caught.at, service.now()),
        line: format!("{} {}", caught.method, caught.target),
        body: BodyShown::new(&caught.body, caught.is_cut()),
        headers: caught.headers,
        status: caught.status,
        well,
        verdict,
    };
    frame::show(&page.frame, &page)
}

fn told(verdict: &CaughtVerdict) -> (bool, String) {
    match verdict {
        CaughtVerdict::Valid(endpoint) => {
            let name = name_of(endpoint);
            (
                true,
                format!("The signature is valid: it was sent to {name}, with its secret."),
            )
        }
        CaughtVerdict::Invalid(VerifyError::MissingHeader(name)) => (
            false,
            format!("It is not signed as an endpoint’s requests are: there is no {name}."),
        ),
        CaughtVerdict::Invalid(error) => (
            false,
            format!("The signature is not one of an endpoint with this address: {error}."),
        ),
        CaughtVerdict::Unknown => (
            false,
            "No endpoint is known to have this address, so there is no secret to verify it with."
                .to_owned(),
        ),
        CaughtVerdict::Busy => (
            false,
            "It could not be verified just now: look again in a moment.".to_owned(),
        ),
        CaughtVerdict::Cut => (
            false,
            "It was too long to be kept whole, so it cannot be verified here.".to_owned(),
        ),
    }
}

/// What comes to a catcher's address, whoever sends it. Nothing of it is shown to who sent it.
pub(crate) async fn catch(
    State(site): State<Site>,
    Path(code): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let service = site.service();
    let refused = |refusal| Failure::Refused(Face::Console, refusal);
    // Before anything of the body is read, which goes on its tenant's account.
    let tenant = service.catcher_of(&code).await.map_err(refused)?;
    let tenant = tenant.ok_or_else(|| Failure::not_found(Face::Console))?;
    let query = Fields::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let status = wanted(query.get("status"));
    if is_browsers(&parts.headers) {
        // A browser: it sends what its visitor is known by.
        return Ok(answered(
            StatusCode::OK,
            "what browsers send is not kept here\n",
        ));
    }
    let caught = &site.pages.caught;
    let body = read_from(caught, site.face, body, REQUEST_BYTES_MAX, tenant.as_u128()).await?;
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = parts.headers.iter();
    let target = parts.uri.path_and_query();
    let kept = service.catch(
        &code,
        CaughtRequest {
            method: parts.method.to_string(),
            target: target.map(ToString::to_string).unwrap_or_default(),
            headers: headers
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            body,
            status: status.as_u16(),
        },
    );
    // It ended while the request was on its way.
    if !kept {
        return Err(Failure::not_found(Face::Console));
    }
    Ok(answered(status, "caught\n"))
}

/// Programs do not say what only browsers do, even where the connection is plain.
fn is_browsers(headers: &http::HeaderMap) -> bool {
    let html = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    headers.contains_key("sec-fetch-site")
        || headers.contains_key("upgrade-insecure-requests")
        || html.is_some_and(|accept| accept.contains("text/html"))
}

fn answered(status: StatusCode, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let mut response = (status, headers, text).into_response();
    response.extensions_mut().insert(AsAskedFor);
    response
}

/// The answer that the address asks for, so that failures can be tried: `?status=503`.
fn wanted(text: Option<&str>) -> StatusCode {
    let code = text.and_then(|text| text.parse::<u16>().ok());
    // Below 200 it would not be an answer yet.
    let code = code.filter(|code| (200..600).contains(code));
    let code = code.and_then(|code| StatusCode::from_u16(code).ok());
    code.unwrap_or(StatusCode::OK)
}
