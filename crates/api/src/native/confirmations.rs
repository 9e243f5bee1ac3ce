//! Mail addresses that a tenant names get nothing until somebody who reads them agrees: a mail brings a code,
//! and the code comes back here. Whom the product itself names it vouches for.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, StatusCode, header};
use postrider_core::audit::Actor;
use postrider_core::notice::{Confirmation, NotificationSettings};
use postrider_core::tenant::Tenant;
use postrider_core::{Id, Secret, Timestamp, id};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::random::seal_nonce;
use crate::request::{Path, json, must_be_json, ok, path_id, typed};

/// What codes are sealed for; they are no row's.
const CONTEXT: &str = "mail confirmation";
const NO_ROW: u128 = 0;
/// How long a code is good.
const CODE_DAYS: u64 = 7;

/// Questions that wait for the mailer, shared by tenant.
pub(crate) const QUESTIONS_MAX: usize = 256;

/// What a code says.
#[derive(Serialize, Deserialize)]
struct Code {
    tenant: Id<id::Tenant>,
    email: String,
    expires_at: i64,
}

/// The addresses in a change of settings, whatever else is in it.
fn named(patch: &Map<String, Value>) -> BTreeSet<String> {
    let classes = patch.get("notifications").and_then(Value::as_object);
    let classes = classes.into_iter().flat_map(Map::values);
    let lists = classes.filter_map(|class| class.get("emails")?.as_array());
    let emails = lists.flatten().filter_map(Value::as_str);
    emails.map(str::to_owned).collect()
}

fn unconfirmed(patch: &Map<String, Value>) -> BTreeSet<String> {
    let list = patch
        .get("notifications")
        .and_then(|n| n.get("unconfirmed"));
    let emails = list.and_then(Value::as_array).into_iter().flatten();
    emails
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Takes out of a change what only the server writes; whoever sends back what was read changes nothing.
pub(super) fn without_read_only(patch: &mut Map<String, Value>) {
    let notifications = patch.get_mut("notifications");
    if let Some(notifications) = notifications.and_then(Value::as_object_mut) {
        notifications.remove("unconfirmed");
    }
}

/// How a change of settings leaves the addresses.
pub(super) struct Consent {
    /// Whom whoever changed them vouches for; none of a tenant's key.
    vouched: BTreeSet<String>,
    is_tenant: bool,
}

impl Consent {
    /// Of a change as it came, so that an address in `unconfirmed`, which whoever changes something else sends
    /// back, is not vouched for.
    pub(super) fn new(is_tenant: bool, patch: &Map<String, Value>) -> Self {
        let vouched = if is_tenant {
            BTreeSet::new()
        } else {
            let waiting = unconfirmed(patch);
            let named = named(patch).into_iter();
            named.filter(|email| !waiting.contains(email)).collect()
        };
        Self { vouched, is_tenant }
    }

    /// To be called with the settings before and after, in the transaction that changes them.
    pub(super) fn apply(&self, before: &NotificationSettings, after: &mut NotificationSettings) {
        let known: BTreeSet<String> = before.emails().cloned().collect();
        let mut unconfirmed = Vec::new();
        for email in after.emails().collect::<BTreeSet<_>>() {
            let waits = before.unconfirmed.contains(email);
            let is_new = self.is_tenant && !known.contains(email);
            if (waits && !self.vouched.contains(email)) || is_new {
                unconfirmed.push(email.clone());
            }
        }
        after.unconfirmed = unconfirmed;
    }
}

/// Asks those who are not confirmed now and were not before. What the mailer has no room for can be asked again.
pub(super) async fn ask_new(api: &Api, before: &Tenant, after: &Tenant) -> ApiResult<()> {
    let waited = &before.settings.notifications.unconfirmed;
    for email in &after.settings.notifications.unconfirmed {
        if !waited.contains(email) {
            ask(api, after, email).await?;
        }
    }
    Ok(())
}

/// False when the mailer has no room.
async fn ask(api: &Api, tenant: &Tenant, email: &str) -> ApiResult<bool> {
    let Some(mailer) = &api.0.options.confirmations else {
        return Ok(false);
    };
    let code = Code {
        tenant: tenant.id,
        email: email.to_owned(),
        expires_at: api
            .now()
            .plus(std::time::Duration::from_secs(CODE_DAYS * 86_400))
            .as_micros(),
    };
    let text = Secret::new(serde_json::to_string(&code).map_err(ApiError::internal)?);
    let sealed = api.0.sealer.seal(&text, seal_nonce(), CONTEXT, NO_ROW);
    let application = api.0.directory.application(tenant.application).await?;
    let confirmation = Confirmation {
        tenant: tenant.id,
        to: email.to_owned(),
        code: Secret::new(URL_SAFE_NO_PAD.encode(sealed)),
        tenant_name: tenant.name.clone(),
        application_name: application.name.clone(),
    };
    let place = api.0.questions.take(tenant.id.as_u128(), 1);
    Ok(place.is_some_and(|place| mailer.try_send((confirmation, place)).is_ok()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskBody {
    email: String,
}

/// Sends the mail again.
pub(crate) async fn ask_again(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    caller.must_be_live()?;
    let body: AskBody = api.read(&caller, &headers, body).await?;
    let unconfirmed = &tenant.settings.notifications.unconfirmed;
    if !unconfirmed.contains(&body.email) {
        let rule = "is not among settings.notifications.unconfirmed of the tenant";
        return Err(ApiError::invalid("email", rule));
    }
    if !ask(&api, &tenant, &body.email).await? {
        let detail = "no mail can be sent now; try again later";
        return Err(ApiError::new(ErrorCode::Overloaded, detail));
    }
    Ok(json(StatusCode::ACCEPTED, &AskedView { email: body.email }))
}

#[derive(Serialize)]
struct AskedView {
    email: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfirmBody {
    code: String,
}

#[derive(Serialize)]
struct ConfirmedView {
    tenant: Id<id::Tenant>,
    email: String,
}

/// On whose account bodies go that need no key.
const NOBODY: u128 = 0;
/// Bytes of the body of a confirmation: it needs no key.
const CONFIRM_BYTES_MAX: usize = 4_096;

/// Takes a code back. It needs no key: who has the code reads the address.
pub(crate) async fn confirm(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    must_be_json(&headers)?;
    let bytes = api.body_of(NOBODY, body, CONFIRM_BYTES_MAX).await?;
    let body: ConfirmBody = typed(&bytes)?;
    Ok(ok(&confirmed(&api, &body.code).await?))
}

async fn confirmed(api: &Api, code: &str) -> ApiResult<ConfirmedView> {
    let invalid = || {
        ApiError::invalid(
            "code",
            "is not one of this server's, or has ended; ask for a new one",
        )
    };
    let sealed = URL_SAFE_NO_PAD.decode(code).map_err(|_| invalid())?;
    let text = api.0.sealer.open(&sealed, CONTEXT, NO_ROW);
    let text = text.map_err(|_| invalid())?;
    let code: Code = serde_json::from_str(text.expose()).map_err(|_| invalid())?;
    let now = api.now();
    if Timestamp::from_micros(code.expires_at) <= now {
        return Err(invalid());
    }
    let tenant = match api.0.directory.tenant(code.tenant).await {
        Err(error) if error.code.status() == StatusCode::NOT_FOUND => return Err(invalid()),
        found => found?,
    };
    if tenant
        .settings
        .notifications
        .unconfirmed
        .contains(&code.email)
    {
        let email = code.email.clone();
        let change = move |tenant: &mut Tenant| {
            let unconfirmed = &mut tenant.settings.notifications.unconfirmed;
            unconfirmed.retain(|waits| *waits != email);
            tenant.updated_at = now;
        };
        api.change_tenant(code.tenant, Box::new(change), Actor::system(now))
            .await?;
    }
    Ok(ConfirmedView {
        tenant: code.tenant,
        email: code.email,
    })
}

/// The page behind the link of the mail. Programs that look at links on the way only read it: a button confirms.
pub(crate) async fn page(Path(_code): Path<String>) -> Response {
    html(
        StatusCode::OK,
        "<h1>Confirm this mail address</h1>\
         <p>Messages about failed webhook deliveries will be sent to the address that got this link.</p>\
         <form method=post><button>Confirm</button></form>",
    )
}

pub(crate) async fn confirm_page(State(api): State<Api>, Path(code): Path<String>) -> Response {
    match confirmed(&api, &code).await {
        Ok(_) => html(
            StatusCode::OK,
            "<h1>Confirmed</h1><p>This page can be closed.</p>",
        ),
        Err(error) if error.code.status().is_client_error() => html(
            error.code.status(),
            "<h1>This link is no longer valid</h1><p>Ask whoever named the address for a new one.</p>",
        ),
        Err(error) => error.into_response(),
    }
}

fn html(status: StatusCode, body: &str) -> Response {
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Postrider</title><body>{body}"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
        // The link is the secret.
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, page).into_response()
}
