//! Event types. Their schemas are documentation, as in the original: no message is held against them. What only this
//! API knows of a type (versions of its schema, that it is archived, its group) is kept with it as it came.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse as _;
use axum::routing::get;
use http::StatusCode;
use postrider_core::Timestamp;
use postrider_core::tenant::EventType;
use postrider_service::{
    self as service, EventTypeListed, NewEventType, Refusal, nullable, present,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::lists::{Params, part_of};
use super::refusal::{EVENT_TYPE, taken};
use super::{Answer, Client, Path};
use crate::Api;
use crate::request::{json, ok};

pub(super) fn routes(base: &str) -> Router<Api> {
    let all = format!("{base}/event-type");
    let one = get(read).put(put).patch(change).delete(delete);
    Router::new()
        .route(&all, get(list).post(create))
        .route(&format!("{all}/{{name}}"), one)
}

/// What the store keeps for this API: read tolerantly, whoever wrote it.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Kept {
    archived: bool,
    deprecated: bool,
    schemas: Option<Map<String, Value>>,
    feature_flags: Option<Vec<String>>,
    group_name: Option<String>,
    updated_at: Option<Timestamp>,
}

impl Kept {
    fn of(event_type: &EventType) -> Self {
        let kept = event_type.vendor.as_deref();
        kept.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }

    fn text(&self) -> service::Result<String> {
        serde_json::to_string(self).map_err(Refusal::internal)
    }

    /// The example of the newest version of the schema.
    fn example(&self) -> Option<String> {
        let schemas = self.schemas.iter().flatten();
        let newest = schemas.max_by_key(|(version, _)| version.parse::<u64>().unwrap_or(0));
        let example = newest?.1.get("examples")?.get(0)?;
        Some(example.to_string())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventTypeOut {
    name: String,
    description: String,
    archived: bool,
    deprecated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    schemas: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    feature_flags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_name: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl EventTypeOut {
    fn new(event_type: EventType, with_schemas: bool) -> Self {
        let kept = Kept::of(&event_type);
        Self {
            archived: kept.archived,
            deprecated: kept.deprecated,
            schemas: kept.schemas.filter(|_| with_schemas),
            feature_flags: kept.feature_flags,
            group_name: kept.group_name,
            updated_at: kept.updated_at.unwrap_or(event_type.created_at),
            name: event_type.name,
            description: event_type.description.unwrap_or_default(),
            created_at: event_type.created_at,
        }
    }
}

async fn known(api: &Api, client: &Client, name: &str) -> service::Result<Option<EventType>> {
    let service = &api.service;
    let known = service.event_type(&client.caller, client.application, name);
    known.await
}

async fn found(api: &Api, client: &Client, name: &str) -> service::Result<EventType> {
    let found = known(api, client, name).await?;
    found.ok_or_else(unknown)
}

fn unknown() -> Refusal {
    Refusal::not_found("event type")
}

pub(super) async fn list(State(api): State<Api>, client: Client, params: Params) -> Answer {
    let archived = params.flag("include_archived", false)?;
    let with_schemas = params.flag("with_content", false)?;
    let ascending = params.ascending(true)?;
    let mut held = api.answer(&client.caller);
    // What the application declared, as it is shown.
    let mut all = Vec::new();
    let each = |listed: EventTypeListed| {
        let EventTypeListed::Application(own) = listed else {
            return Ok(());
        };
        if archived || !Kept::of(&own).archived {
            let shown = if with_schemas { own.text_bytes() } else { 0 };
            held.grow_by(size_of::<EventTypeOut>() + own.name.len() + shown)?;
            all.push(EventTypeOut::new(own, with_schemas));
        }
        Ok(())
    };
    let service = &api.service;
    let listing = service.each_event_type(&client.caller, client.application, each);
    listing.await?;
    // An iterator is a name, so the list goes by names.
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if !ascending {
        all.reverse();
    }
    let is_after = |row: &EventTypeOut, last: &str| match ascending {
        true => row.name.as_str() > last,
        false => row.name.as_str() < last,
    };
    let name = |row: &EventTypeOut| row.name.clone();
    Ok(part_of(&params, all, name, is_after, |row| row)?)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventTypeIn {
    name: String,
    #[serde(flatten)]
    rest: EventTypeUpdate,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventTypeUpdate {
    description: String,
    archived: Option<bool>,
    deprecated: Option<bool>,
    schemas: Option<Map<String, Value>>,
    feature_flags: Option<Vec<String>>,
    /// As the open-source server has them, one.
    feature_flag: Option<String>,
    group_name: Option<String>,
}

impl EventTypeUpdate {
    fn into_parts(self) -> (String, Kept) {
        let kept = Kept {
            archived: self.archived.unwrap_or(false),
            deprecated: self.deprecated.unwrap_or(false),
            schemas: self.schemas,
            feature_flags: self
                .feature_flags
                .or_else(|| Some(vec![self.feature_flag?])),
            group_name: self.group_name,
            updated_at: None,
        };
        (self.description, kept)
    }
}

/// Writes a type; an archived one of this name comes back.
pub(super) async fn create(State(api): State<Api>, client: Client, body: Body) -> Answer {
    let EventTypeIn { name, rest } = client.read(&api, body).await?;
    let make = |known: Option<&EventType>| {
        if known.is_some_and(|known| !Kept::of(known).archived) {
            return Err(taken(EVENT_TYPE));
        }
        Ok(rest.clone().into_parts())
    };
    let written = write(&api, &client, name, make).await?;
    Ok(json(StatusCode::CREATED, &EventTypeOut::new(written, true)))
}

/// Writes what is made of what is there.
async fn write(
    api: &Api,
    client: &Client,
    name: String,
    mut make: impl FnMut(Option<&EventType>) -> service::Result<(String, Kept)> + Send,
) -> service::Result<EventType> {
    let now = api.service.now();
    let over = |known: Option<EventType>| {
        let (description, kept) = make(known.as_ref())?;
        // A schema that was declared elsewhere, and is held against events, is not this API's to take away.
        let (schema, example) = match known {
            // One that came with the schemas that it had goes with them.
            Some(known) => {
                let came = Kept::of(&known).example();
                let own = known
                    .example
                    .filter(|example| came.as_ref() != Some(example));
                (known.schema, own)
            }
            None => (None, None),
        };
        let kept = Kept {
            updated_at: Some(now),
            ..kept
        };
        Ok(NewEventType {
            example: kept.example().or(example),
            vendor: Some(kept.text()?),
            description: Some(description),
            schema,
        })
    };
    let (caller, application) = (&client.caller, client.application);
    let put = api
        .service
        .put_event_type_over(caller, application, name, over);
    put.await
}

pub(super) async fn read(
    State(api): State<Api>,
    client: Client,
    Path(name): Path<String>,
) -> Answer {
    let known = found(&api, &client, &name).await?;
    Ok(ok(&EventTypeOut::new(known, true)))
}

/// Changes all of it, or makes it where there is none.
pub(super) async fn put(
    State(api): State<Api>,
    client: Client,
    Path(name): Path<String>,
    body: Body,
) -> Answer {
    let given: EventTypeUpdate = client.read(&api, body).await?;
    let mut status = StatusCode::CREATED;
    let make = |known: Option<&EventType>| {
        status = match known {
            Some(_) => StatusCode::OK,
            None => StatusCode::CREATED,
        };
        Ok(given.clone().into_parts())
    };
    let written = write(&api, &client, name, make).await?;
    Ok(json(status, &EventTypeOut::new(written, true)))
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventTypePatch {
    #[serde(default, deserialize_with = "present")]
    description: Option<String>,
    #[serde(default, deserialize_with = "present")]
    archived: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    deprecated: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    schemas: Option<Option<Map<String, Value>>>,
    #[serde(default, deserialize_with = "nullable")]
    feature_flags: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "nullable")]
    group_name: Option<Option<String>>,
}

pub(super) async fn change(
    State(api): State<Api>,
    client: Client,
    Path(name): Path<String>,
    body: Body,
) -> Answer {
    let given: EventTypePatch = client.read(&api, body).await?;
    found(&api, &client, &name).await?;
    let make = |known: Option<&EventType>| {
        let (known, given) = (known.ok_or_else(unknown)?, given.clone());
        let mut kept = Kept::of(known);
        kept.archived = given.archived.unwrap_or(kept.archived);
        kept.deprecated = given.deprecated.unwrap_or(kept.deprecated);
        kept.schemas = given.schemas.unwrap_or(kept.schemas);
        kept.feature_flags = given.feature_flags.unwrap_or(kept.feature_flags);
        kept.group_name = given.group_name.unwrap_or(kept.group_name);
        let description = given.description.or(known.description.clone());
        Ok((description.unwrap_or_default(), kept))
    };
    let written = write(&api, &client, name, make).await?;
    Ok(ok(&EventTypeOut::new(written, true)))
}

/// Archives it, as the original does; with `expunge` it is gone.
pub(super) async fn delete(
    State(api): State<Api>,
    client: Client,
    Path(name): Path<String>,
    params: Params,
) -> Answer {
    found(&api, &client, &name).await?;
    if params.flag("expunge", false)? {
        let gone = api
            .service
            .delete_event_type(&client.caller, client.application, name);
        gone.await?;
    } else {
        let make = |known: Option<&EventType>| {
            let known = known.ok_or_else(unknown)?;
            let kept = Kept {
                archived: true,
                ..Kept::of(known)
            };
            Ok((known.description.clone().unwrap_or_default(), kept))
        };
        write(&api, &client, name, make).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}
