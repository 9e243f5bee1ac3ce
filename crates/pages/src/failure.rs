//! Refusals as pages: what happened, and what to do.

use askama::Template;
use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;
use postrider_service::{ErrorCode, Refusal};

use crate::frame::{Face, Frame, show_as};

/// Why a page is not shown.
#[derive(Debug)]
pub(crate) enum Failure {
    Refused(Face, Refusal),
    /// Nobody is there any more, or yet.
    SignIn(Face, String),
    /// A form that did not come from this visitor's own page.
    Forged(Face),
}

impl Failure {
    pub(crate) fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Refused(Face::Console, Refusal::internal(source))
    }

    pub(crate) fn not_found(face: Face) -> Self {
        Self::Refused(face, Refusal::not_found("page"))
    }
}

/// The status that browsers are told; the sentence is for people.
pub(crate) fn status(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[derive(Template)]
#[template(path = "problem.html")]
struct Problem {
    frame: Frame,
    heading: &'static str,
    sentence: String,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (face, status, heading, sentence) = match self {
            Self::SignIn(Face::Console, next) => {
                let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
                return Redirect::to(&format!("/sign-in?next={next}")).into_response();
            }
            Self::SignIn(Face::Portal, _) => (
                Face::Portal,
                StatusCode::UNAUTHORIZED,
                "You are not signed in",
                "Your visit has ended, or has not begun. Come the way you came before: the product that sends you here makes a new link.".to_owned(),
            ),
            Self::Forged(face) => (
                face,
                StatusCode::FORBIDDEN,
                "Nothing was done",
                "The form did not come from a page of this visit, or is from before you signed in. Open the page again and try once more.".to_owned(),
            ),
            Self::Refused(face, refusal) => {
                refusal.log();
                let status = status(refusal.code);
                let heading = match status {
                    StatusCode::NOT_FOUND => "Not found",
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "Not allowed",
                    StatusCode::SERVICE_UNAVAILABLE => "Not now",
                    StatusCode::INTERNAL_SERVER_ERROR => "Something failed here",
                    _ => "That was not done",
                };
                (face, status, heading, sentence(&refusal))
            }
        };
        let page = Problem {
            frame: Frame::plain(face, heading),
            heading,
            sentence,
        };
        // The page of a failure may fail too.
        show_as(status, &page.frame, &page).unwrap_or_else(|_| status.into_response())
    }
}

/// A refusal in one sentence: the field that is wrong, and what to do.
pub(crate) fn sentence(refusal: &Refusal) -> String {
    let title = refusal.code.as_str().replace('_', " ");
    match (&refusal.field, refusal.detail.as_str()) {
        (Some(field), detail) => format!("{field} {detail}."),
        (None, "") => format!("The server says: {title}."),
        (None, detail) => {
            let mut letters = detail.chars();
            let first = letters.next().map(|first| first.to_uppercase().to_string());
            format!("{}{}.", first.unwrap_or_default(), letters.as_str())
        }
    }
}
