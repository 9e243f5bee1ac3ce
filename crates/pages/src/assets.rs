//! The style and the script: served from the binary, kept by browsers until the binary is another.

use std::sync::LazyLock;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header;
use postrider_core::seal::{hex, sha256};

pub(crate) const STYLE: &str = include_str!("../assets/pages.css");
const SCRIPT: &str = include_str!("../assets/pages.js");
const ICON: &str = include_str!("../assets/icon.svg");

/// In the addresses of the assets, so that they can be kept for ever.
pub(crate) static VERSION: LazyLock<String> = LazyLock::new(|| {
    let all = [STYLE, SCRIPT, ICON].concat();
    hex(&sha256(all.as_bytes())[..6])
});

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/assets/pages.css", get(async || asset("text/css", STYLE)))
        .route(
            "/assets/pages.js",
            get(async || asset("text/javascript", SCRIPT)),
        )
        .route(
            "/assets/icon.svg",
            get(async || asset("image/svg+xml", ICON)),
        )
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text).into_response()
}
