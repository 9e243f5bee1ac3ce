//! Making and changing an endpoint: one form, which keeps what was typed when something is wrong.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Path, State};
use http::StatusCode;
use postrider_core::endpoint::EndpointKind;
use postrider_core::profile::Profile;
use postrider_core::tenant::Mode;
use postrider_service::{EndpointPatch, NewEndpoint, Refusal};

use crate::Site;
use crate::deliveries::mode;
use crate::door::Visitor;
use crate::endpoint::{show_made, tenant_of};
use crate::failure::Failure;
use crate::fields::{Fields, Posted};
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::name_of;
use crate::tenant::crumbs_below;

#[derive(Template)]
#[template(path = "endpoint_form.html")]
struct Form {
    frame: Frame,
    heading: String,
    action: String,
    back: String,
    is_new: bool,
    values: Values,
    /// What can be subscribed to, where the profile says.
    types: Vec<String>,
    custom_headers: bool,
    https_only: bool,
    test_only: bool,
    wrong: Option<String>,
}

#[derive(Default)]
struct Values {
    url: String,
    description: String,
    events: String,
    headers: String,
    rate_limit: String,
    mode: String,
}

impl Values {
    fn of(fields: &Fields) -> Self {
        Self {
            url: fields.text("url"),
            description: fields.text("description"),
            events: fields.text("events"),
            headers: fields.text("headers"),
            rate_limit: fields.text("rate_limit"),
            mode: fields.text("mode"),
        }
    }

    /// Event types, by lines, commas or blanks; none is all.
    fn patterns(&self) -> Option<Vec<String>> {
        let parts = self.events.split([',', '\n', '\r', ' ', '\t']);
        let parts: Vec<String> = parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        (!parts.is_empty()).then_some(parts)
    }

    fn headers(&self) -> Result<BTreeMap<String, String>, Refusal> {
        header_lines(&self.headers)
    }

    fn rate_limit(&self) -> Result<Option<u32>, Refusal> {
        if self.rate_limit.is_empty() {
            return Ok(None);
        }
        let rule =
            |_| Refusal::invalid("rateLimit", "must be a whole number of deliveries a second");
        self.rate_limit.parse().map(Some).map_err(rule)
    }

    fn description(&self) -> Option<String> {
        (!self.description.is_empty()).then(|| self.description.clone())
    }
}

/// Headers as they are typed: one on each line.
pub(crate) fn header_lines(text: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let mut headers = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let rule = || Refusal::invalid("headers", "must be lines such as authorization: Bearer …");
        let (name, value) = line.split_once(':').ok_or_else(rule)?;
        headers.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    Ok(headers)
}

pub(crate) async fn new(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    new_form(&site, &visitor, &id, Values::default(), None).await
}

async fn new_form(
    site: &Site,
    visitor: &Visitor,
    id: &str,
    values: Values,
    wrong: Option<String>,
) -> Shown {
    let refused = visitor.refused();
    let tenant = tenant_of(visitor, id)?;
    let found = site.service().tenant(&visitor.visit.caller, tenant).await;
    let (_, profile) = found.map_err(&refused)?;
    let crumbs = crumbs_below(site, visitor, tenant).await;
    let back = visitor.href(crate::endpoint::home_of(visitor, tenant));
    let form = Form {
        frame: Frame::of(visitor, "New endpoint").behind(crumbs),
        heading: "New endpoint".to_owned(),
        action: visitor.href(format_args!("/tenants/{tenant}/endpoints")),
        back,
        is_new: true,
        values,
        types: types(&profile),
        custom_headers: profile.custom_headers.allow,
        https_only: profile.http.schemes.len() == 1,
        test_only: visitor.visit.caller.own_mode() == Mode::Test,
        wrong,
    };
    answered(&form)
}

pub(crate) async fn create(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let tenant = tenant_of(&visitor, &id)?;
    let values = Values::of(&fields);
    let command = || {
        Ok::<_, Refusal>(NewEndpoint {
            url: values.url.clone(),
            events: values.patterns(),
            description: values.description(),
            mode: mode(fields.get("mode"))?,
            headers: values.headers()?,
            rate_limit: values.rate_limit()?,
            ..NewEndpoint::default()
        })
    };
    let who = &visitor.visit.caller;
    let made = match command() {
        Ok(command) => site.service().create_endpoint(who, tenant, command).await,
        Err(refusal) => Err(refusal),
    };
    match made {
        Ok(made) => show_made(&site, &visitor, &made).await,
        Err(refusal) => {
            let wrong = Some(visitor.told_why(refusal)?);
            new_form(&site, &visitor, &id, values, wrong).await
        }
    }
}

pub(crate) async fn edit(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    edit_form(&site, &visitor, &id, None, None).await
}

async fn edit_form(
    site: &Site,
    visitor: &Visitor,
    id: &str,
    values: Option<Values>,
    wrong: Option<String>,
) -> Shown {
    let refused = visitor.refused();
    let found = site.service().endpoint(&visitor.visit.caller, id).await;
    let (endpoint, current) = found.map_err(&refused)?;
    if endpoint.kind != EndpointKind::Registered {
        return Err(Failure::not_found(site.face));
    }
    let profile = &current.profile;
    let href = visitor.href(format_args!("/endpoints/{}", endpoint.id));
    let stored = || Values {
        url: endpoint.url.clone(),
        description: endpoint.description.clone().unwrap_or_default(),
        events: endpoint.subscription.patterns().join("\n"),
        headers: endpoint
            .headers
            .iter()
            .map(|header| format!("{}: ****\n", header.name))
            .collect(),
        rate_limit: endpoint
            .rate_limit
            .map_or_else(String::new, |rate| rate.to_string()),
        mode: endpoint.mode.as_str().to_owned(),
    };
    let crumbs = crumbs_below(site, visitor, endpoint.tenant).await;
    let crumbs = crumbs
        .into_iter()
        .chain([Link::new(href.clone(), name_of(&endpoint))]);
    let form = Form {
        frame: Frame::of(visitor, "Change endpoint").behind(crumbs),
        heading: format!("Change {}", name_of(&endpoint)),
        action: format!("{href}/edit"),
        back: href,
        is_new: false,
        values: values.unwrap_or_else(stored),
        types: types(profile),
        custom_headers: profile.custom_headers.allow,
        https_only: profile.http.schemes.len() == 1,
        test_only: false,
        wrong,
    };
    answered(&form)
}

pub(crate) async fn change(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let values = Values::of(&fields);
    let who = &visitor.visit.caller;
    let found = site.service().endpoint(who, &id).await;
    let (_, current) = found.map_err(visitor.refused())?;
    let custom_headers = current.profile.custom_headers.allow;
    let command = || {
        Ok::<_, Refusal>(EndpointPatch {
            url: Some(values.url.clone()),
            events: Some(values.patterns()),
            description: Some(values.description()),
            headers: custom_headers
                .then(|| values.headers())
                .transpose()?
                .map(Some),
            rate_limit: Some(values.rate_limit()?),
            ..EndpointPatch::default()
        })
    };
    let changed = match command() {
        Ok(command) => site.service().change_endpoint(who, &id, command).await,
        Err(refusal) => Err(refusal),
    };
    match changed {
        Ok(_) => Ok(visitor.back_to(format_args!("/endpoints/{id}"), "changed")),
        Err(refusal) => {
            let wrong = Some(visitor.told_why(refusal)?);
            edit_form(&site, &visitor, &id, Some(values), wrong).await
        }
    }
}

fn answered(form: &Form) -> Shown {
    let status = match form.wrong {
        Some(_) => StatusCode::BAD_REQUEST,
        None => StatusCode::OK,
    };
    frame::show_as(status, &form.frame, form)
}

fn types(profile: &Profile) -> Vec<String> {
    match &profile.events.closed {
        Some(closed) => closed.clone(),
        None => profile
            .event_types
            .iter()
            .map(|known| known.name.clone())
            .collect(),
    }
}
