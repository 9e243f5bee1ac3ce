//! The console's users: who may come in by name, and as what.

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode};
use postrider_core::user::{Role, User};
use postrider_core::{Id, Timestamp, id};
use postrider_service::{Caller, NewUser, UserPatch};
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::openapi::{OfUser, Refusals};
use crate::problem::Answer;
use crate::request::{List, NoBody, Paging, Path, Query, json, list as list_of, ok, read_id};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UserView {
    id: Id<id::User>,
    /// What they come in with.
    name: String,
    role: Role,
    /// They are confined to it; null reaches everything.
    application: Option<Id<id::Application>>,
    active: bool,
    /// When they chose their password; null until they did.
    password_since: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// By it they choose a password, once, and are in. Only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            name: user.name,
            role: user.role,
            application: user.application,
            active: user.disabled_at.is_none(),
            password_since: user.password.map(|password| password.since),
            created_at: user.created_at,
            updated_at: user.updated_at,
            url: None,
        }
    }
}

/// Makes a user of the console. The answer has a link by which that person, and nobody else, chooses a password.
#[utoipa::path(
    post, path = "/v1/users", tag = "Pages", operation_id = "createUser",
    request_body = NewUser,
    responses((status = CREATED, description = "Made.", body = UserView), Refusals),
)]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let new = api.read(&caller, &headers, body).await?;
    let made = api.service.create_user(&caller, new).await?;
    let view = UserView {
        url: Some(api.link(&headers, &made.link)),
        ..made.user.into()
    };
    Ok(json(StatusCode::CREATED, &view))
}

/// Lists the console's users, the newest first; for a key of an application, those that are confined to it.
#[utoipa::path(
    get, path = "/v1/users", tag = "Pages", operation_id = "listUsers",
    params(Paging),
    responses((status = OK, description = "Done.", body = List<UserView>), Refusals),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Answer {
    let page = paging.request()?;
    let found = api.service.list_users(&caller, page).await?;
    Ok(list_of(found, UserView::from))
}

/// Reads a user.
#[utoipa::path(
    get, path = "/v1/users/{user}", tag = "Pages", operation_id = "getUser",
    params(OfUser),
    responses((status = OK, description = "Done.", body = UserView), Refusals),
)]
pub(crate) async fn read(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    let user = api.service.user(&caller, read_id(&id)?).await?;
    Ok(ok(&UserView::from(user)))
}

/// Gives a user another role, keeps them out, or lets them in again.
#[utoipa::path(
    patch, path = "/v1/users/{user}", tag = "Pages", operation_id = "updateUser",
    params(OfUser),
    request_body = UserPatch,
    responses((status = OK, description = "Done.", body = UserView), Refusals),
)]
pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = read_id(&id)?;
    let patch = api.read(&caller, &headers, body).await?;
    let user = api.service.change_user(&caller, id, patch).await?;
    Ok(ok(&UserView::from(user)))
}

/// Deletes a user: whoever is in as them is out.
#[utoipa::path(
    delete, path = "/v1/users/{user}", tag = "Pages", operation_id = "deleteUser",
    params(OfUser),
    responses((status = NO_CONTENT, description = "Deleted."), Refusals),
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoBody,
) -> Answer {
    api.service.delete_user(&caller, read_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UserLinkView {
    /// By it the user chooses a password, once, and is in. The one that they have stays until then.
    url: String,
    expires_at: Timestamp,
}

/// Makes a link by which a user chooses another password: for one that was forgotten.
#[utoipa::path(
    post, path = "/v1/users/{user}/links", tag = "Pages", operation_id = "createUserLink",
    params(OfUser),
    responses((status = CREATED, description = "Made.", body = UserLinkView), Refusals),
)]
pub(crate) async fn link(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    _: NoBody,
) -> Answer {
    let made = api.service.user_link(&caller, read_id(&id)?).await?;
    let view = UserLinkView {
        url: api.link(&headers, &made),
        expires_at: made.session.expires_at,
    };
    Ok(json(StatusCode::CREATED, &view))
}
