//! Event types of an application, with their schemas and examples.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use postrider_core::filter::is_event_type;
use postrider_core::limits::{DESCRIPTION_BYTES_MAX, EVENT_TYPES_MAX, SCHEMA_BYTES_MAX};
use postrider_core::tenant::EventType;
use postrider_core::{Id, id};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::views::EventTypeView;
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult};
use crate::request::{
    Path, bounded, list as list_of, must_be_json, ok, path_id, typed, well_formed,
};
use crate::schemas;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventTypeBody<'b> {
    description: Option<String>,
    /// Kept as they came, byte for byte.
    #[serde(borrow)]
    schema: Option<&'b RawValue>,
    #[serde(borrow)]
    example: Option<&'b RawValue>,
}

fn checked(field: &str, value: Option<&RawValue>) -> ApiResult<Option<String>> {
    let Some(value) = value else {
        return Ok(None);
    };
    if value.get().len() > SCHEMA_BYTES_MAX {
        let rule = format!("must have at most {SCHEMA_BYTES_MAX} bytes");
        return Err(ApiError::invalid(field, rule));
    }
    Ok(Some(value.get().to_owned()))
}

pub(crate) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let application = caller.application(&api, path_id(&id)?).await?.id;
    caller.must_be_live()?;
    if !is_event_type(&name) {
        return Err(ApiError::invalid(
            "name",
            "must have letters, digits, _ and -, with dots between parts",
        ));
    }
    must_be_json(&headers)?;
    let bytes = api.body(caller.holder(), body).await?;
    well_formed(&bytes)?;
    let given: EventTypeBody<'_> = typed(&bytes)?;
    if let Some(description) = &given.description {
        bounded("description", description, DESCRIPTION_BYTES_MAX)?;
    }
    let event_type = EventType {
        application,
        name,
        description: given.description,
        schema: checked("schema", given.schema)?,
        example: checked("example", given.example)?,
        created_at: api.now(),
    };
    schemas::try_out(&api.0.schemas, &event_type).await?;
    let (putting, by) = (api.clone(), caller.actor(&api));
    let put = api
        .to_the_end(async move {
            let store = putting.store();
            let put = store
                .put_event_type(event_type, EVENT_TYPES_MAX, by)
                .await?;
            putting
                .0
                .directory
                .forget_event_type(application, &put.name);
            Ok(put)
        })
        .await?;
    Ok(ok(&EventTypeView::from(put)))
}

/// The profile's event types, and the application's own, which take the place of the profile's.
async fn all(api: &Api, application: Id<id::Application>) -> ApiResult<Vec<EventTypeView>> {
    let profile = api.0.directory.profile(application).await?.profile;
    let own = api.store().list_event_types(application).await?;
    let described = profile.event_types.iter();
    let described = described.filter(|known| own.iter().all(|own| own.name != known.name));
    let mut views: Vec<EventTypeView> = described.map(EventTypeView::of_profile).collect();
    views.extend(own.iter().cloned().map(EventTypeView::from));
    Ok(views)
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let application = caller.application(&api, path_id(&id)?).await?.id;
    let rows = all(&api, application).await?;
    Ok(list_of(
        postrider_store::Page { rows, next: None },
        |view| view,
    ))
}

/// The example of an event type, if it has one.
pub(super) async fn example(
    api: &Api,
    application: Id<id::Application>,
    name: &str,
) -> ApiResult<Option<String>> {
    if let Some(known) = api.store().event_type(application, name).await? {
        return Ok(known.example);
    }
    let profile = api.0.directory.profile(application).await?.profile;
    let mut described = profile.event_types.iter();
    let known = described.find(|known| known.name == name);
    Ok(known.and_then(|known| known.example.clone()))
}

pub(crate) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path((id, name)): Path<(String, String)>,
) -> ApiResult<Response> {
    let application = caller.application(&api, path_id(&id)?).await?.id;
    caller.must_be_live()?;
    let (deleting, by) = (api.clone(), caller.actor(&api));
    api.to_the_end(async move {
        deleting
            .store()
            .delete_event_type(application, &name, by)
            .await?;
        deleting.0.directory.forget_event_type(application, &name);
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
