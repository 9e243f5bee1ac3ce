//! Links into the pages: of a customer into the portal, of whoever has a key into the console.

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode};
use postrider_core::session::{Holder, Session};
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{Caller, NewPortalLink};
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::openapi::{OfPortalLink, OfTenant, Refusals};
use crate::problem::Answer;
use crate::request::{List, NoBody, Paging, Path, Query, json, list as list_of, read_id};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PortalLinkView {
    id: Id<id::Session>,
    tenant: Option<Id<id::Tenant>>,
    mode: Option<Mode>,
    read_only: bool,
    name: Option<String>,
    return_url: Option<String>,
    frame_origins: Vec<String>,
    /// The link: it opens the portal once. Only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    created_at: Timestamp,
    /// When somebody came by it; null until then.
    opened_at: Option<Timestamp>,
    /// The link, and what it opened, end then.
    expires_at: Timestamp,
}

impl PortalLinkView {
    fn new(session: Session) -> Self {
        let portal = match session.holder {
            Holder::Portal(portal) => Some(portal),
            Holder::Key(_) | Holder::User(_) => None,
        };
        let seen = portal.as_ref();
        let (tenant, mode) = seen.map(|portal| (portal.tenant, portal.mode)).unzip();
        let terms = portal.map(|portal| portal.terms).unwrap_or_default();
        Self {
            id: session.id,
            tenant,
            mode,
            read_only: terms.read_only,
            name: terms.name,
            return_url: terms.return_url,
            frame_origins: terms.frame_origins,
            url: None,
            created_at: session.created_at,
            opened_at: session.opened_at,
            expires_at: session.expires_at,
        }
    }
}

/// Makes a link into the portal, for one of the tenant's people. It lets in once, whoever opens it first.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/portal-links", tag = "Pages", operation_id = "createPortalLink",
    params(OfTenant),
    request_body = NewPortalLink,
    responses((status = CREATED, description = "Made.", body = PortalLinkView), Refusals),
)]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let tenant = read_id(&tenant)?;
    let new = api.read(&caller, &headers, body).await?;
    let made = api.service.create_portal_link(&caller, tenant, new).await?;
    let url = api.link(&headers, &made);
    let view = PortalLinkView {
        url: Some(url),
        ..PortalLinkView::new(made.session)
    };
    Ok(json(StatusCode::CREATED, &view))
}

/// Lists a tenant's portal links that have not ended, the newest first.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/portal-links", tag = "Pages", operation_id = "listPortalLinks",
    params(OfTenant, Paging),
    responses((status = OK, description = "Done.", body = List<PortalLinkView>), Refusals),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(paging): Query<Paging>,
) -> Answer {
    let tenant = read_id(&tenant)?;
    let page = paging.request()?;
    let listed = api.service.list_portal_links(&caller, tenant, page).await?;
    Ok(list_of(listed, PortalLinkView::new))
}

/// Ends a portal link, and whoever it let in is out.
#[utoipa::path(
    delete, path = "/v1/portal-links/{link}", tag = "Pages", operation_id = "endPortalLink",
    params(OfPortalLink),
    responses((status = NO_CONTENT, description = "Ended."), Refusals),
)]
pub(crate) async fn end(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoBody,
) -> Answer {
    api.service.end_portal_link(&caller, read_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ConsoleLinkView {
    /// It opens the console once, as whoever has the key.
    url: String,
    expires_at: Timestamp,
}

/// Makes a link into the console for whoever has the key: `postrider console` prints it.
#[utoipa::path(
    post, path = "/v1/console-links", tag = "Pages", operation_id = "createConsoleLink",
    responses((status = CREATED, description = "Made.", body = ConsoleLinkView), Refusals),
)]
pub(crate) async fn console(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    _: NoBody,
) -> Answer {
    let made = api.service.console_link(&caller).await?;
    let view = ConsoleLinkView {
        url: api.link(&headers, &made),
        expires_at: made.session.expires_at,
    };
    Ok(json(StatusCode::CREATED, &view))
}
