//! In-app notifications of failures, for those who asked for them in the tenant's settings.

use axum::body::Body;
use axum::extract::State;
use http::HeaderMap;
use postrider_core::notice::{Notice, NoticeClass};
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{Caller, NoticeQuery};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Api;
use crate::openapi::{OfTenant, Refusals};
use crate::problem::Answer;
use crate::request::{List, Path, Query, list as list_of, ok, page_request, read_id};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NoticeView {
    id: Id<id::Notice>,
    at: Timestamp,
    /// `delivery.failed`, `endpoint.disabled` or `distribution.paused`.
    r#type: &'static str,
    class: NoticeClass,
    endpoint: Id<id::Endpoint>,
    delivery: Id<id::Delivery>,
    event_type: String,
    mode: Mode,
    url: String,
    attempts: u32,
    error: String,
    read_at: Option<Timestamp>,
}

impl From<Notice> for NoticeView {
    fn from(notice: Notice) -> Self {
        Self {
            id: notice.id,
            at: notice.at,
            r#type: notice.kind.event_type(notice.class),
            class: notice.class,
            endpoint: notice.endpoint,
            delivery: notice.delivery,
            event_type: notice.event_type.as_ref().to_owned(),
            mode: notice.mode,
            url: notice.url,
            attempts: notice.attempts,
            error: notice.error,
            read_at: notice.read_at,
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct NoticeParams {
    /// Of this mode.
    mode: Option<Mode>,
    #[serde(default)]
    /// Those that nobody has read.
    unread: bool,
    /// Rows of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 250)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists a tenant's notifications, the newest first.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/notifications", tag = "Notifications", operation_id = "listNotifications",
    params(OfTenant, NoticeParams),
    responses((status = OK, description = "Done.", body = List<NoticeView>), Refusals),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(params): Query<NoticeParams>,
) -> Answer {
    let query = NoticeQuery {
        mode: params.mode,
        unread: params.unread,
    };
    let page = page_request(params.limit.as_deref(), params.cursor.as_deref())?;
    let found = api
        .service
        .list_notices(&caller, read_id(&tenant)?, query, page);
    Ok(list_of(found.await?, NoticeView::from))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ReadBody {
    /// The newest one that was read; the older ones are too.
    up_to: Id<id::Notice>,
}

#[derive(Serialize, ToSchema)]
struct ReadView {
    /// How many were not read before.
    read: u32,
}

/// Marks a notification and all older ones as read.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/notifications/read", tag = "Notifications", operation_id = "readNotifications",
    params(OfTenant),
    request_body = ReadBody,
    responses((status = OK, description = "Done.", body = ReadView), Refusals),
)]
pub(crate) async fn mark_read(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let tenant = read_id(&tenant)?;
    let ReadBody { up_to } = api.read(&caller, &headers, body).await?;
    let read = api.service.read_notices(&caller, tenant, up_to).await?;
    Ok(ok(&ReadView { read }))
}
