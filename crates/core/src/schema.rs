//! How ids and times look in an OpenAPI document.

use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, Type};
// Hidden, but what its own macros ask of the arguments of a generic type, such as the kind of an id.
use utoipa::__dev::ComposeSchema;
use utoipa::openapi::{KnownFormat, RefOr, Schema};

use crate::id::Kind;
use crate::{Id, Timestamp};

impl<K: Kind> ComposeSchema for Id<K> {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        let prefix = K::PREFIX;
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(format!("Id of a {}.", K::NOUN)))
            .pattern(Some(format!("^{prefix}[0-7][0-9a-hjkmnp-tv-z]{{25}}$")))
            .examples([format!("{prefix}01m8ggnwg8e009nnw4bt6w21ab")])
            .into()
    }
}

impl<K: Kind> ToSchema for Id<K> {}

impl ComposeSchema for Timestamp {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .description(Some(
                "RFC 3339, with an offset; answers have milliseconds and Z.",
            ))
            .examples(["2026-11-28T07:24:55.176Z"])
            .into()
    }
}

impl ToSchema for Timestamp {}
