//! The OpenAPI document: made from the handlers and their types, served at `/v1/openapi.json`.

use std::collections::BTreeMap;

use postrider_core::{Id, id};
use postrider_service::ErrorCode;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ArrayBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, Ref, RefOr,
    ResponseBuilder, Schema, ServerBuilder,
};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};

use crate::problem::{ProblemView, status};

/// The scheme of every operation that needs a key.
const KEY: &str = "key";

macro_rules! path_params {
    ($($(#[$doc:meta])* $name:ident { $param:ident: $type:ty })*) => {$(
        $(#[$doc])*
        #[derive(IntoParams)]
        #[into_params(parameter_in = Path)]
        #[expect(dead_code, reason = "it describes what handlers read by its place in the path")]
        pub(crate) struct $name {
            $(#[$doc])*
            $param: $type,
        }
    )*};
}

path_params! {
    /// An application's id.
    OfApplication { application: Id<id::Application> }
    /// A tenant's id.
    OfTenant { tenant: Id<id::Tenant> }
    /// An event's id; `msg_…`, as receivers of the standard profile know it, will do.
    OfEvent { event: Id<id::Event> }
    /// A delivery's id.
    OfDelivery { delivery: Id<id::Delivery> }
    /// An attempt's number.
    OfAttempt { attempt: u32 }
    /// An API key's id, not its text.
    OfKey { key: Id<id::ApiKey> }
    /// A replay's id.
    OfReplay { replay: Id<id::Task> }
    /// A portal link's id.
    OfPortalLink { link: Id<id::Session> }
    /// A user's id.
    OfUser { user: Id<id::User> }
    /// A deletion's id.
    OfDeletion { deletion: Id<id::Task> }
    /// An endpoint's id, or its `wireId`.
    OfEndpoint { endpoint: String }
    /// A distribution's id, or its `wireId`.
    OfDistribution { distribution: String }
    /// Name of an event type.
    OfName { name: String }
    /// The code of a mail.
    OfCode { code: String }
}

/// Names a publish, so that it can be tried again.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes what a handler reads")]
pub(crate) struct IdempotencyKey {
    /// The same key and event again, within a day, are taken for a retry.
    #[param(rename = "Idempotency-Key")]
    idempotency_key: Option<String>,
}

/// A header's name and value. A list of two: what JSON Schema has for pairs, generators do not read.
pub(crate) struct HeaderPair;

impl PartialSchema for HeaderPair {
    fn schema() -> RefOr<Schema> {
        let pair = ArrayBuilder::new().items(String::schema());
        pair.min_items(Some(2)).max_items(Some(2)).into()
    }
}

impl ToSchema for HeaderPair {}

/// Whatever an operation may be refused with.
pub(crate) struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let reference = |status: u16| {
            let named = Ref::from_response_name(refused(status));
            (status.to_string(), named.into())
        };
        codes().into_keys().map(reference).collect()
    }
}

/// The codes of each status. What is wrong inside is no part of the contract.
fn codes() -> BTreeMap<u16, Vec<&'static str>> {
    let mut codes: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for code in ErrorCode::ALL {
        if code != ErrorCode::Internal {
            let of_status = codes.entry(status(code).as_u16()).or_default();
            of_status.push(code.as_str());
        }
    }
    codes
}

fn refused(status: u16) -> String {
    format!("Refused{status}")
}

/// What an operation is refused with, by its name among the components.
fn refusals() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
    let response = |(status, codes): (u16, Vec<&str>)| {
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(ProblemView::name())))
            .build();
        let response = ResponseBuilder::new()
            .description(format!("`{}`", codes.join("`, `")))
            .content("application/problem+json", content)
            .build();
        (refused(status), response.into())
    };
    codes().into_iter().map(response).collect()
}

/// Completes what the handlers say of themselves.
pub(crate) fn completed(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("Postrider")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").build()))
        .build();
    document.servers = Some(vec![ServerBuilder::new().url("/").build()]);
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The text of an API key, `pr_…`."))
        .build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(KEY, SecurityScheme::Http(bearer));
    components.responses.extend(refusals());
    let mut schemas = Vec::new();
    // No handler names it: all refer to the refusals, which refer to it.
    ProblemView::schemas(&mut schemas);
    schemas.push((
        ProblemView::name().into_owned(),
        <ProblemView<'_> as PartialSchema>::schema(),
    ));
    components.schemas.extend(schemas);
    // Scopes, of which this scheme has none.
    let keys: [String; 0] = [];
    document.security = Some(vec![SecurityRequirement::new(KEY, keys)]);
    document
}

const DESCRIPTION: &str = "Publishes events, and delivers each to the endpoints that subscribed as a signed request, at \
least once, with a record of every attempt. Errors are problem details (RFC 9457) with a stable `code`.\n\nThe management \
APIs of the documented systems (Vignetim, Voucherify) are beside this one, and are described by their vendors.";
