//! Verify here: whether a request that a receiver got is signed as it should be, and if not, what differs.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use postrider_core::Timestamp;
use postrider_core::profile::{Profile, VerifyError, saved_request};
use postrider_service::budget::Grant;

use crate::Site;
use crate::deliveries::time;
use crate::door::Visitor;
use crate::endpoint::tenant_of;
use crate::failure::{Failure, sentence};
use crate::fields::{FORM_BYTES_MAX, Fields, Posted, room};
use crate::frame::{self, Frame, Shown};
use crate::receivers::{Function, functions};
use crate::tenant::crumbs_below;

/// Bytes of a request that is verified here.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

#[derive(Template)]
#[template(path = "verify.html")]
struct Verify {
    frame: Frame,
    action: String,
    request: String,
    at: String,
    header: String,
    verdict: Option<Verdict>,
    functions: Vec<Function>,
}

struct Verdict {
    valid: bool,
    sentence: String,
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    page(&site, &visitor, &id, None).await
}

/// Nothing of what was typed is kept; the secret is not shown again either.
pub(crate) async fn verify(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    page(&site, &posted.visitor, &id, Some(posted.fields)).await
}

async fn page(site: &Site, visitor: &Visitor, id: &str, typed: Option<Fields>) -> Shown {
    let tenant = tenant_of(visitor, id)?;
    let found = site.service().tenant(&visitor.visit.caller, tenant).await;
    let (_, profile) = found.map_err(visitor.refused())?;
    let now = site.service().now();
    let (typed, verdict) = match typed {
        None => (Fields::default(), None),
        Some(typed) => {
            // All of the form is held while it waits for its turn.
            let holder = visitor.visit.caller.holder();
            let room = room(&site.pages.forms, site.face, FORM_BYTES_MAX, holder)?;
            let (typed, verdict) = verified(site, profile.clone(), typed, now, room).await?;
            (typed, Some(verdict))
        }
    };
    let signature = profile.signatures.first();
    let page = Verify {
        frame: Frame::of(visitor, "Verify").behind(crumbs_below(site, visitor, tenant).await),
        action: visitor.href(format_args!("/tenants/{tenant}/verify")),
        request: typed.text("request"),
        at: typed.text("at"),
        header: signature.map_or_else(String::new, |signature| signature.header.to_lowercase()),
        verdict,
        functions: functions(&profile.name),
    };
    frame::show(&page.frame, &page)
}

/// Verifies on a thread of its own, one request at a time: a canonical form can be long work.
async fn verified(
    site: &Site,
    profile: Arc<Profile>,
    typed: Fields,
    now: Timestamp,
    room: Grant,
) -> Result<(Fields, Verdict), Failure> {
    if typed.get("request").map_or(0, str::len) > REQUEST_BYTES_MAX {
        let sentence = format!(
            "A request may have {REQUEST_BYTES_MAX} bytes here; `postrider verify` takes any."
        );
        let valid = false;
        return Ok((Fields::default(), Verdict { valid, sentence }));
    }
    let turn = site.pages.verifying.clone().acquire_owned().await;
    let turn = turn.map_err(Failure::internal)?;
    let work = tokio::task::spawn_blocking(move || {
        let verdict = verdict(&profile, &typed, now);
        // Here, since the work goes on although its visitor went away: the next one waits for its end.
        drop((turn, room));
        (typed, verdict)
    });
    work.await.map_err(Failure::internal)
}

fn verdict(profile: &Profile, typed: &Fields, now: Timestamp) -> Verdict {
    let refused = |sentence: String| Verdict {
        valid: false,
        sentence,
    };
    let at = match time("at", typed.get("at")) {
        Ok(at) => at.unwrap_or(now),
        Err(refusal) => return refused(sentence(&refusal)),
    };
    let key = match profile.verifying_key(typed.get("secret").unwrap_or_default()) {
        Ok(key) => key,
        Err(error) => return refused(format!("That is no secret: {error}.")),
    };
    // Browsers send the lines of a text with CR and LF, whatever they were.
    let text = typed.text("request");
    let plain = text.replace("\r\n", "\n");
    let mut first = None;
    let as_sent = (plain != text).then_some(text.as_str());
    for saved in [Some(plain.as_str()), as_sent].into_iter().flatten() {
        let bytes = saved.as_bytes();
        let (headers, body) = match saved_request(bytes) {
            Ok(read) => read,
            Err(error) => return refused(format!("That is no request: {error}.")),
        };
        let header = |name: &str| {
            let mut named = headers.iter();
            let found = named.find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| *value)
        };
        let keys = std::slice::from_ref(&key);
        match profile.verify(&header, body, keys, at) {
            Ok(()) => {
                return Verdict {
                    valid: true,
                    sentence: format!(
                        "The signature is valid: whoever has the secret sent these {} bytes.",
                        body.len()
                    ),
                };
            }
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    refused(match first {
        Some(VerifyError::Stale) => {
            "The signed time is too far from now. If the request is an older one, say when it came."
                .to_owned()
        }
        Some(VerifyError::Mismatch) | None => {
            "No signature matches: it is another secret, or the body is not what was sent, byte for byte. A body that was parsed and written again reads like this."
                .to_owned()
        }
        Some(other) => format!("The signature is not valid: {other}."),
    })
}
