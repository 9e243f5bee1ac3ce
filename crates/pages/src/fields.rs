//! Forms: read within bounds, and only where they come from the visitor's own page.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use postrider_core::Timestamp;
use postrider_service::budget::{Budget, Grant};
use postrider_service::{ErrorCode, Refusal};

use crate::Site;
use crate::door::Visitor;
use crate::failure::Failure;
use crate::frame::Face;

/// Bytes of a form.
pub(crate) const FORM_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a form of somebody who is not there yet.
pub(crate) const DOOR_BYTES_MAX: usize = 4_096;
/// Time for a form to arrive.
const FORM_TIMEOUT: Duration = Duration::from_secs(30);

/// What a form or a query says.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let pairs = url::form_urlencoded::parse(bytes);
        Self(pairs.into_owned().collect())
    }

    /// What a field holds, without the blanks around it; none when it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// What a field holds, to the last blank: a password.
    pub(crate) fn exact(&self, name: &str) -> String {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    /// What a field holds, if the form has it at all.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All that fields of this name hold.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let found = self.0.iter().filter(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).collect()
    }

    /// What a field holds, empty when it is not there.
    pub(crate) fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }
}

/// What a form says that somebody has overtaken.
pub(crate) const OVERTAKEN: &str = "Somebody has changed this since the form was opened. What you typed is below; saving it now replaces all that they changed.";

/// When what a form shows was changed last, for its field `seen`.
pub(crate) fn seen(updated_at: Timestamp) -> String {
    updated_at.as_micros().to_string()
}

/// Whether a form shows an older state than there is. It says all of what it is of, so saving it would take back what
/// somebody else has changed.
pub(crate) fn is_overtaken(fields: &Fields, updated_at: Timestamp) -> bool {
    let known = fields.get("seen");
    known.is_some_and(|known| known != seen(updated_at))
}

/// A form that a visitor's own page has sent.
pub(crate) struct Posted {
    pub(crate) visitor: Visitor,
    pub(crate) fields: Fields,
}

impl FromRequest<Site> for Posted {
    type Rejection = Failure;

    async fn from_request(request: Request, site: &Site) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        // First: of somebody who is not in nothing is read.
        let visitor = Visitor::of(&parts, site).await?;
        let holder = visitor.visit.caller.holder();
        let fields = read(site, body, FORM_BYTES_MAX, holder).await?;
        if fields.get("csrf") != Some(visitor.csrf.as_str()) {
            return Err(Failure::Forged(site.face));
        }
        Ok(Self { visitor, fields })
    }
}

/// Reads a form of at most `max` bytes on the account of `holder`.
pub(crate) async fn read(
    site: &Site,
    body: Body,
    max: usize,
    holder: u128,
) -> Result<Fields, Failure> {
    let bytes = read_from(&site.pages.forms, site.face, body, max, holder).await?;
    Ok(Fields::parse(&bytes))
}

/// Room for `max` bytes of what somebody sent, on the account of `holder`.
pub(crate) fn room(
    budget: &Budget,
    face: Face,
    max: usize,
    holder: u128,
) -> Result<Grant, Failure> {
    budget.take(holder, max).ok_or_else(|| {
        let detail = "the server reads as many forms as it can; try again in a moment";
        let refusal = Refusal::new(ErrorCode::Overloaded, detail);
        Failure::Refused(face, refusal)
    })
}

/// Reads a body of at most `max` bytes on the account of `holder` in a budget.
pub(crate) async fn read_from(
    budget: &Budget,
    face: Face,
    body: Body,
    max: usize,
    holder: u128,
) -> Result<Bytes, Failure> {
    let refuse = |code, detail: String| Failure::Refused(face, Refusal::new(code, detail));
    // For all that it may have: `to_bytes` does not tell how much has come so far.
    let _grant = room(budget, face, max, holder)?;
    let reading = axum::body::to_bytes(body, max);
    match tokio::time::timeout(FORM_TIMEOUT, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let detail = format!("what is sent may have {max} bytes here");
            Err(refuse(ErrorCode::BodyTooLarge, detail))
        }
        Err(_) => {
            let detail = "the form did not arrive in time; send it again".to_owned();
            Err(refuse(ErrorCode::BodyTimeout, detail))
        }
    }
}
