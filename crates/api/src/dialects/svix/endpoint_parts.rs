//! What hangs on an endpoint: headers, secret, counts, and what it missed.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use http::StatusCode;
use postrider_core::attempt::Outcome;
use postrider_core::endpoint::Endpoint;
use postrider_core::profile::Class;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{
    self as service, Counts, EndpointPatch, NewReplay, Outcomes, Refusal, Replay, Rotation,
    StatisticsAsked, TaskStatus,
};
use serde::{Deserialize, Serialize};

use super::lists::Params;
use super::{Answer, Client, Path};
use crate::Api;
use crate::request::{json, ok};

pub(super) fn routes(base: &str) -> Router<Api> {
    let part = |name: &str| format!("{base}/app/{{app}}/endpoint/{{endpoint}}/{name}");
    let of_headers = get(headers).put(put_headers).patch(change_headers);
    Router::new()
        .route(&part("headers"), of_headers)
        .route(&part("secret"), get(secret))
        .route(&part("secret/rotate"), post(rotate))
        .route(&part("stats"), get(stats))
        .route(&part("recover"), post(recover))
        .route(&part("replay-missing"), post(replay_missing))
}

/// How far counts go back, where nothing is said.
const STATS_DEFAULT: Duration = Duration::from_secs(28 * 24 * 3_600);

/// Values are never shown: every header is a sensitive one.
#[derive(Serialize)]
struct HeadersOut {
    headers: BTreeMap<String, String>,
    sensitive: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HeadersIn {
    headers: BTreeMap<String, Option<String>>,
    #[serde(default)]
    delete_headers: Vec<String>,
}

type OfEndpoint = Path<(String, String)>;

impl Client {
    async fn known(&self, api: &Api, app: &str, endpoint: &str) -> service::Result<Endpoint> {
        let app = self.app(api, app).await?;
        self.endpoint(api, &app, endpoint).await
    }
}

pub(super) async fn headers(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): OfEndpoint,
) -> Answer {
    let known = client.known(&api, &app, &endpoint).await?;
    let names = known.headers.into_iter().map(|header| header.name);
    Ok(ok(&HeadersOut {
        headers: BTreeMap::new(),
        sensitive: names.collect(),
    }))
}

/// All of them anew.
pub(super) async fn put_headers(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): OfEndpoint,
    body: Body,
) -> Answer {
    let known = client.known(&api, &app, &endpoint).await?;
    let given: HeadersIn = client.read(&api, body).await?;
    let of_header = |(name, value): (String, Option<String>)| match value {
        Some(value) => Ok((name, value)),
        None => Err(Refusal::invalid(
            format!("headers.{name}"),
            "must be a text",
        )),
    };
    let headers = given.headers.into_iter().map(of_header);
    let headers = headers.collect::<service::Result<_>>()?;
    let patch = EndpointPatch {
        headers: Some(Some(headers)),
        ..EndpointPatch::default()
    };
    written(&api, &client, &known, patch).await
}

/// Those that are named; null takes one away.
pub(super) async fn change_headers(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): OfEndpoint,
    body: Body,
) -> Answer {
    let known = client.known(&api, &app, &endpoint).await?;
    let given: HeadersIn = client.read(&api, body).await?;
    let taken_away = given.delete_headers.into_iter().map(|name| (name, None));
    let patch = EndpointPatch {
        header_changes: taken_away.chain(given.headers).collect(),
        ..EndpointPatch::default()
    };
    written(&api, &client, &known, patch).await
}

async fn written(api: &Api, client: &Client, known: &Endpoint, patch: EndpointPatch) -> Answer {
    let id = known.id.to_string();
    let changed = api.service.change_endpoint(&client.caller, &id, patch);
    changed.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Serialize)]
struct SecretOut<'s> {
    key: &'s str,
}

pub(super) async fn secret(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): OfEndpoint,
) -> Answer {
    let id = client.known(&api, &app, &endpoint).await?.id.to_string();
    let shown = api.service.endpoint_secret(&client.caller, &id).await?;
    let key = shown.secret.expose();
    Ok(ok(&SecretOut { key }))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RotateIn {
    key: Option<String>,
    grace_period_seconds: Option<u64>,
}

pub(super) async fn rotate(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): OfEndpoint,
    body: Body,
) -> Answer {
    let id = client.known(&api, &app, &endpoint).await?.id.to_string();
    let given: RotateIn = api.read_optional(&client.caller, body).await?;
    let rotation = Rotation {
        secret: given.key,
        overlap: given.grace_period_seconds.map(|secs| format!("{secs}s")),
        ..Rotation::default()
    };
    let rotated = api
        .service
        .rotate_endpoint_secret(&client.caller, &id, &rotation);
    let rotated = rotated.await?;
    // Version 2 of the SDKs reads it; those before it read nothing.
    let key = rotated.secret.expose();
    Ok(ok(&SecretOut { key }))
}

#[derive(Serialize, Default)]
struct StatsOut {
    success: u64,
    pending: u64,
    sending: u64,
    fail: u64,
    canceled: u64,
}

pub(super) async fn stats(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): OfEndpoint,
    params: Params,
) -> Answer {
    let known = client.known(&api, &app, &endpoint).await?;
    let (since, until) = (params.time("since")?, params.time("until")?);
    let default = || {
        until
            .unwrap_or_else(|| api.service.now())
            .minus(STATS_DEFAULT)
    };
    let since = since.unwrap_or_else(default);
    if since >= until.unwrap_or_else(|| api.service.now()) {
        return Ok(ok(&StatsOut::default()));
    }
    let asked = StatisticsAsked {
        since: Some(since),
        until,
        endpoint: Some(known.id),
        ..StatisticsAsked::default()
    };
    let counted = api
        .service
        .statistics(&client.caller, known.tenant, asked)
        .await?;
    let profile = api.service.profile_of(client.application).await?.profile;
    // Attempts are counted, as in the original; what is pending has none under way that is known.
    let (mut success, mut fail) = match &counted.outcomes {
        Some(_) => (0, 0),
        // Recorded by a version that did not count them.
        None => {
            let Counts {
                delivered,
                attempts,
                ..
            } = counted.totals;
            (delivered, attempts.saturating_sub(delivered))
        }
    };
    for (code, attempts) in counted.outcomes.iter().flat_map(Outcomes::by_count) {
        let status = code.parse().ok();
        let is_taken = status.is_some_and(|status| {
            let outcome = Outcome::Answered {
                status,
                retry_after_secs: None,
            };
            profile.classify.class(&outcome) == Class::Ok
        });
        *(if is_taken { &mut success } else { &mut fail }) += attempts;
    }
    Ok(ok(&StatsOut {
        success,
        pending: counted.totals.pending,
        sending: 0,
        fail,
        canceled: counted.totals.cancelled,
    }))
}

#[derive(Deserialize)]
struct RangeIn {
    since: Timestamp,
    until: Option<Timestamp>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TaskOut {
    id: String,
    status: &'static str,
    task: &'static str,
    updated_at: Timestamp,
}

impl TaskOut {
    fn new(replay: &Replay, task: &'static str) -> Self {
        Self {
            id: replay.id.to_string(),
            status: match replay.status {
                TaskStatus::Running => "running",
                _ => "finished",
            },
            task,
            updated_at: replay.finished_at.unwrap_or(replay.created_at),
        }
    }
}

/// Sends again what failed since then.
pub(super) async fn recover(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): OfEndpoint,
    body: Body,
) -> Answer {
    let task = "endpoint.recover";
    replayed(&api, &client, (&app, &endpoint), body, false, task).await
}

/// Sends what the endpoint did not get because it was not there or disabled.
pub(super) async fn replay_missing(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): OfEndpoint,
    body: Body,
) -> Answer {
    let task = "endpoint.replay";
    replayed(&api, &client, (&app, &endpoint), body, true, task).await
}

async fn replayed(
    api: &Api,
    client: &Client,
    (app, endpoint): (&str, &str),
    body: Body,
    missed: bool,
    task: &'static str,
) -> Answer {
    let app = client.app(api, app).await?;
    let known = client.endpoint(api, &app, endpoint).await?;
    let range: RangeIn = client.read(api, body).await?;
    let new = replay_of(known.id, missed, &range);
    let replay = api.service.create_replay(&client.caller, app.id, new);
    let view = TaskOut::new(&replay.await?, task);
    Ok(json(StatusCode::ACCEPTED, &view))
}

fn replay_of(endpoint: Id<id::Endpoint>, missed: bool, range: &RangeIn) -> NewReplay {
    NewReplay {
        endpoint: Some(endpoint),
        missed,
        since: Some(range.since),
        until: range.until,
        ..NewReplay::default()
    }
}
