//! A profile, readable: what its receivers can rely on.

use askama::Template;
use axum::extract::{Path, State};
use postrider_core::health::DisableRule;
use postrider_core::profile::Profile as CoreProfile;
use postrider_core::profile::built_in;
use postrider_core::tenant::Mode;
use postrider_core::tenant::Scope;

use crate::Site;
use crate::door::Visitor;
use crate::frame::{self, Frame, Link, Shown};
use crate::words::{long, schedule};

#[derive(Template)]
#[template(path = "profile.html")]
struct Profile {
    frame: Frame,
    name: String,
    summary: String,
    facts: Vec<(&'static str, String)>,
    headers: Vec<String>,
    signatures: Vec<(String, String)>,
    source: String,
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Shown {
    // Everybody may read what is built in. Another product's own profile is nobody else's business.
    let own = match visitor.visit.caller.scope() {
        Scope::Root => None,
        Scope::Application(own) | Scope::Tenant(own, _) => Some(own),
    };
    if let (Some(own), false) = (own, built_in().iter().any(|known| known.name == name)) {
        let current = site.service().profile_of(own).await;
        let current = current.map_err(visitor.refused())?;
        if current.profile.name != name {
            return Err(crate::Failure::not_found(site.face));
        }
    }
    let current = site.service().profiles().current(&name);
    let profile = current
        .ok_or_else(|| crate::Failure::not_found(site.face))?
        .profile;
    let page = Profile {
        frame: Frame::of(&visitor, format!("Profile {name}"))
            .behind([Link::new(visitor.face.home(), visitor.face.first())]),
        summary: profile.summary.clone(),
        facts: facts(&profile),
        headers: profile
            .headers
            .iter()
            .map(|header| header.name.clone())
            .collect(),
        signatures: profile
            .signatures
            .iter()
            .map(|signature| {
                (
                    signature.header.clone(),
                    format!("{:?}", signature.algorithm),
                )
            })
            .collect(),
        source: profile.source.clone(),
        name,
    };
    frame::show(&page.frame, &page)
}

fn facts(profile: &CoreProfile) -> Vec<(&'static str, String)> {
    let disabled = match profile.disable {
        DisableRule::Never => "never by itself".to_owned(),
        DisableRule::FailedDeliveries(count) => format!("after {count} failed deliveries in a row"),
        DisableRule::FailingFor(limit) => format!("after {} of failures only", long(limit)),
    };
    let mut facts = vec![
        ("Retries", schedule(profile.retry(Mode::Live))),
        ("Time for an answer", long(profile.http.total_timeout)),
        ("An endpoint is disabled", disabled),
        ("Content type", profile.content_type.clone()),
    ];
    if profile.retry_test.is_some() {
        facts.insert(
            1,
            (
                "Retries of test events",
                schedule(profile.retry(Mode::Test)),
            ),
        );
    }
    facts
}
