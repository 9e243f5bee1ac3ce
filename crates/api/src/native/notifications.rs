//! In-app notifications of failures, for those who asked for them in the tenant's settings.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use postrider_core::notice::{Notice, NoticeClass};
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_store::NoticeFilter;
use serde::{Deserialize, Serialize};

use crate::Api;
use crate::auth::Caller;
use crate::problem::ApiResult;
use crate::request::{Path, Query, list as list_of, ok, page_request, path_id};

#[derive(Serialize)]
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoticeQuery {
    mode: Option<Mode>,
    #[serde(default)]
    unread: bool,
    limit: Option<String>,
    cursor: Option<String>,
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(query): Query<NoticeQuery>,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?.id;
    let filter = NoticeFilter {
        tenant,
        mode: caller.shown(query.mode)?,
        unread: query.unread,
    };
    let page = page_request(query.limit.as_deref(), query.cursor.as_deref())?;
    Ok(list_of(
        api.store().list_notices(filter, page).await?,
        NoticeView::from,
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ReadBody {
    /// The newest one that was read; the older ones are too.
    up_to: Id<id::Notice>,
}

#[derive(Serialize)]
struct ReadView {
    /// How many were not read before.
    read: u32,
}

pub(crate) async fn mark_read(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?.id;
    let body: ReadBody = api.read(&caller, &headers, body).await?;
    let read = api
        .store()
        .read_notices(tenant, caller.shown(None)?, body.up_to, api.now())
        .await?;
    Ok(ok(&ReadView { read }))
}
