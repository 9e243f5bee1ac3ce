//! Who may come in: links to the portal with tokens for one application, and how that ends.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode};
use postrider_service::{self as service, ErrorCode, NewPortalLink, Refusal};
use serde::{Deserialize, Serialize};

use super::applications::{ApplicationIn, make_on_the_way};
use super::{Answer, Client, Path, TOKEN_PREFIX};
use crate::Api;
use crate::request::ok;

pub(super) fn routes(base: &str) -> Router<Api> {
    Router::new()
        .route(&format!("{base}/health"), get(health))
        .route(&format!("{base}/health/ping"), get(health))
        .route(
            &format!("{base}/auth/app-portal-access/{{app}}"),
            post(portal_access),
        )
        // As it was called before.
        .route(
            &format!("{base}/auth/dashboard-access/{{app}}"),
            post(portal_access),
        )
        .route(&format!("{base}/auth/logout"), post(logout))
}

/// As long as the original's last, which is the longest that ours may.
const LASTS_SECS: u64 = 7 * 24 * 3_600;

/// Whether the server answers; the SDKs ask it without a token.
pub(super) async fn health() -> StatusCode {
    StatusCode::NO_CONTENT
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccessIn {
    application: Option<ApplicationIn>,
    /// Seconds.
    expiry: Option<u64>,
    read_only: Option<bool>,
    capabilities: Option<Vec<String>>,
}

/// What the SDKs call looking without secrets.
const LOOKS: &str = "ViewBase";
/// With `LOOKS`, all that there is to do in a portal here.
const DOES: [&str; 4] = [
    "ViewEndpointSecret",
    "ManageEndpointSecret",
    "CreateAttempts",
    "ManageEndpoint",
];
/// There are no transformations here, so it grants nothing.
const GRANTS_NOTHING: &str = "ManageTransformations";

impl AccessIn {
    /// Whether it only looks. A part of all that can be done is refused: the nearest would be more than was asked for.
    fn read_only(&self) -> service::Result<bool> {
        let asked = self.read_only.unwrap_or(false);
        let Some(capabilities) = &self.capabilities else {
            return Ok(asked);
        };
        let has = |name: &str| capabilities.iter().any(|given| given == name);
        let known = |name: &str| name == LOOKS || name == GRANTS_NOTHING || DOES.contains(&name);
        let all_known = capabilities.iter().all(|given| known(given));
        if all_known && has(LOOKS) && DOES.into_iter().all(has) {
            return Ok(asked);
        }
        if all_known && has(LOOKS) && !DOES.into_iter().any(has) {
            return Ok(true);
        }
        let rule = format!(
            "must be left out, [\"{LOOKS}\"] for looking without secrets, or all of {LOOKS}, {}",
            DOES.join(", ")
        );
        Err(Refusal::invalid("capabilities", rule))
    }
}

#[derive(Serialize)]
struct AccessOut {
    url: String,
    token: String,
}

/// A link that opens the portal once, and a token that this API takes for the same application.
pub(super) async fn portal_access(
    State(api): State<Api>,
    client: Client,
    Path(app): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let given: AccessIn = api.read_optional(&client.caller, body).await?;
    let read_only = given.read_only()?;
    let app = match (client.app(&api, &app).await, given.application) {
        (Err(refusal), Some(new)) if refusal.code == ErrorCode::NotFound => {
            make_on_the_way(&api, &client, &app, new).await?
        }
        (found, _) => found?,
    };
    let link = || NewPortalLink {
        read_only,
        lasts_secs: Some(given.expiry.unwrap_or(LASTS_SECS)),
        ..NewPortalLink::default()
    };
    let (service, caller) = (&api.service, &client.caller);
    let opens = service.create_portal_link(caller, app.id, link()).await?;
    let token = service.create_portal_token(caller, app.id, link()).await?;
    Ok(ok(&AccessOut {
        url: api.link(&headers, &opens),
        token: format!("{TOKEN_PREFIX}{}", token.expose()),
    }))
}

/// Ends an application's token. Keys are not ended by this.
pub(super) async fn logout(State(api): State<Api>, client: Client) -> Answer {
    let Some(visit) = &client.visit else {
        let detail = "only the token of an application is logged out; a key is deleted with DELETE /v1/keys/{key}";
        return Err(Refusal::new(ErrorCode::ScopeInsufficient, detail).into());
    };
    api.service.leave(visit).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
