//! Making and changing a distribution, with its payload designed by example.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Path, State};
use postrider_core::distribution::{Distribution, Payload, PayloadField};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::profile::Profile;
use postrider_core::{Id, id};
use postrider_service::{
    DistributionPatch, ErrorCode, EventQuery, NewDistribution, PageRequest, Refusal,
};
use serde_json::Value;

use crate::Site;
use crate::deliveries::mode;
use crate::door::Visitor;
use crate::endpoint::{home_of, tenant_of};
use crate::endpoint_form::written;
use crate::failure::Failure;
use crate::fields::{Fields, OVERTAKEN, Posted, is_overtaken, seen};
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::{BodyShown, name_of, pretty};
use crate::tenant::crumbs_below;

/// Bytes of the data that a payload is designed by.
const SAMPLE_BYTES_MAX: usize = 8 * 1024;
/// Triggers that are looked at for it.
const TRIGGERS_TRIED: usize = 3;

#[derive(Template)]
#[template(path = "distribution_form.html")]
struct Form {
    frame: Frame,
    heading: String,
    action: String,
    back: String,
    is_new: bool,
    typed: Typed,
    triggers: Vec<(String, bool)>,
    /// Whether event types are chosen, or typed.
    closed: bool,
    /// An example of a trigger, to choose fields of.
    example: Option<Example>,
    wrong: Option<String>,
}

struct Example {
    title: String,
    data: String,
    /// What the designed payload makes of it.
    designed: BodyShown,
}

#[derive(Default)]
struct Typed {
    name: String,
    event_name: String,
    url: String,
    events: Vec<String>,
    filter: String,
    headers: String,
    fields: String,
    raw: bool,
    mode: String,
    seen: String,
}

impl Typed {
    fn of(fields: &Fields) -> Self {
        let mut events = fields.all("events");
        let typed = fields.text("more_events");
        let more = typed.split([',', '\n', '\r', ' ']);
        events.extend(more.filter(|name| !name.is_empty()).map(str::to_owned));
        Self {
            name: fields.text("name"),
            event_name: fields.text("event_name"),
            url: fields.text("url"),
            events,
            filter: fields.text("filter"),
            headers: fields.text("headers"),
            fields: fields.text("fields"),
            raw: fields.get("raw").is_some(),
            mode: fields.text("mode"),
            seen: fields.text("seen"),
        }
    }

    fn stored(endpoint: &Endpoint, distribution: &Distribution) -> Self {
        let fields = distribution.payload.fields.iter().flatten();
        let headers = endpoint.headers.iter();
        Self {
            name: distribution.name.clone(),
            event_name: distribution.event_name.clone(),
            url: endpoint.url.clone(),
            events: endpoint.subscription.patterns().to_vec(),
            filter: endpoint.filter.as_ref().map_or_else(String::new, written),
            // Stars that come back keep the value that is there.
            headers: headers
                .map(|header| format!("{}: ****\n", header.name))
                .collect(),
            fields: fields
                .map(|field| format!("{} as {}\n", field.from, field.to))
                .collect(),
            raw: distribution.payload.raw,
            mode: endpoint.mode.as_str().to_owned(),
            seen: seen(endpoint.updated_at),
        }
    }

    /// Lines such as `voucher.code as code`; a line without a name keeps the last part of its own.
    fn payload(&self) -> Payload {
        let lines = self.fields.lines().map(str::trim);
        let fields: Vec<PayloadField> = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (from, to) = match line.split_once(" as ") {
                    Some((from, to)) => (from.trim(), to.trim()),
                    None => (line, line.rsplit('.').next().unwrap_or(line)),
                };
                PayloadField {
                    from: from.to_owned(),
                    to: to.to_owned(),
                }
            })
            .collect();
        Payload {
            fields: (!fields.is_empty()).then_some(fields),
            raw: self.raw,
        }
    }

    fn filter(&self, site: &Site) -> Result<Option<Value>, Refusal> {
        let filter = (!self.filter.is_empty()).then(|| site.service().read_filter(&self.filter));
        filter.transpose()
    }

    fn headers(&self) -> Result<BTreeMap<String, String>, Refusal> {
        crate::endpoint_form::header_lines(&self.headers)
    }
}

pub(crate) async fn new(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let tenant = tenant_of(&visitor, &id)?;
    new_form(&site, &visitor, tenant, Typed::default(), None).await
}

async fn new_form(
    site: &Site,
    visitor: &Visitor,
    tenant: Id<id::Tenant>,
    typed: Typed,
    wrong: Option<String>,
) -> Shown {
    let back = visitor.href(home_of(visitor, tenant));
    let action = visitor.href(format_args!("/tenants/{tenant}/distributions"));
    let frame = Frame::of(visitor, "New distribution");
    let frame = frame.behind(crumbs_below(site, visitor, tenant).await);
    let heading = "New distribution".to_owned();
    form(
        site, visitor, tenant, frame, heading, action, back, true, typed, wrong,
    )
    .await
}

#[expect(clippy::too_many_arguments, reason = "all that the form is made of")]
async fn form(
    site: &Site,
    visitor: &Visitor,
    tenant: Id<id::Tenant>,
    frame: Frame,
    heading: String,
    action: String,
    back: String,
    is_new: bool,
    typed: Typed,
    wrong: Option<String>,
) -> Shown {
    let refused = visitor.refused();
    let who = &visitor.visit.caller;
    let (owner, profile) = site.service().tenant(who, tenant).await.map_err(&refused)?;
    if profile.distribution.is_none() {
        return Err(Failure::not_found(site.face));
    }
    let sample = sample(site, visitor, tenant, &typed.events).await;
    let example = sample
        .map_err(&refused)?
        .map(|(title, data)| example(&typed, title, &data));
    let status = match wrong {
        Some(_) => http::StatusCode::BAD_REQUEST,
        None => http::StatusCode::OK,
    };
    let mut closed = triggers(&profile);
    let is_closed = !closed.is_empty();
    if is_closed {
        let declared = site.service().event_type_names(who, owner.application);
        let declared = declared.await.map_err(&refused)?.into_iter();
        let declared = declared.filter(|known| known.is_declared);
        let declared = declared.take(DECLARED_SHOWN).map(|known| known.name);
        // And what it has, whatever it is: a box that is not there could not stay checked.
        for name in declared.chain(typed.events.iter().cloned()) {
            if !closed.contains(&name) {
                closed.push(name);
            }
        }
    }
    let page = Form {
        frame,
        heading,
        action,
        back,
        is_new,
        example,
        closed: is_closed,
        triggers: closed
            .into_iter()
            .map(|name| {
                let chosen = typed.events.contains(&name);
                (name, chosen)
            })
            .collect(),
        typed,
        wrong,
    };
    frame::show_as(status, &page.frame, &page)
}

/// Types of the application that are boxes of the form beside the profile's.
const DECLARED_SHOWN: usize = 200;

/// What can trigger a distribution, where the profile says.
fn triggers(profile: &Profile) -> Vec<String> {
    let spec = profile.distribution.as_ref();
    spec.and_then(|spec| spec.events.clone())
        .unwrap_or_default()
}

/// What there is to design by: the example of a trigger's type, or else the tenant's last event of it.
async fn sample(
    site: &Site,
    visitor: &Visitor,
    tenant: Id<id::Tenant>,
    triggers: &[String],
) -> Result<Option<(String, String)>, Refusal> {
    let (service, who) = (site.service(), &visitor.visit.caller);
    let fits = |data: &str| data.len() <= SAMPLE_BYTES_MAX;
    for name in triggers.iter().take(TRIGGERS_TRIED) {
        let described = service.event_example(who, tenant, name).await?;
        if let Some(data) = described.filter(|data| fits(data)) {
            return Ok(Some((format!("{name}, for example"), data)));
        }
        let query = EventQuery {
            event_type: Some(name.clone()),
            ..EventQuery::default()
        };
        let listed = service.list_events(who, tenant, query, PageRequest::first(1));
        let Some(last) = listed.await?.rows.first().map(|last| last.id) else {
            continue;
        };
        let event = match service.event(who, last).await {
            Ok(event) => event,
            // It has gone meanwhile.
            Err(refusal) if refusal.code == ErrorCode::NotFound => continue,
            Err(refusal) => return Err(refusal),
        };
        let data = String::from_utf8_lossy(&event.data).into_owned();
        if fits(&data) {
            return Ok(Some((format!("the last {name}"), data)));
        }
    }
    Ok(None)
}

/// What triggers it, and what its payload would be.
fn example(typed: &Typed, title: String, data: &str) -> Example {
    let compact: Option<Box<serde_json::value::RawValue>> = serde_json::from_str(data).ok();
    let bytes = compact.as_ref().map_or(data, |raw| raw.get());
    let payload = typed.payload();
    // What cannot be is told when it is saved.
    let designed = match payload.check() {
        Ok(()) => payload.design(bytes.as_bytes()).into_owned(),
        Err(error) => format!("The payload {error}.").into_bytes(),
    };
    Example {
        title,
        data: pretty(data.as_bytes()).unwrap_or_else(|| data.to_owned()),
        designed: BodyShown::new(&designed.into(), false),
    }
}

pub(crate) async fn create(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let tenant = tenant_of(&visitor, &id)?;
    let typed = Typed::of(&fields);
    if fields.get("preview").is_some() {
        return new_form(&site, &visitor, tenant, typed, None).await;
    }
    let command = || {
        Ok::<_, Refusal>(NewDistribution {
            name: typed.name.clone(),
            event_name: typed.event_name.clone(),
            url: typed.url.clone(),
            events: typed.events.clone(),
            filter: typed.filter(&site)?,
            headers: typed.headers()?,
            payload: typed.payload(),
            rate_limit: None,
            mode: mode(fields.get("mode"))?,
            status: postrider_service::Activity::Live,
        })
    };
    let who = &visitor.visit.caller;
    let made = match command() {
        Ok(command) => {
            site.service()
                .create_distribution(who, tenant, command)
                .await
        }
        Err(refusal) => Err(refusal),
    };
    match made {
        Ok((endpoint, _)) => {
            Ok(visitor.back_to(format_args!("/endpoints/{}", endpoint.id), "created"))
        }
        Err(refusal) => {
            let wrong = Some(visitor.told_why(refusal)?);
            new_form(&site, &visitor, tenant, typed, wrong).await
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
    typed: Option<Typed>,
    wrong: Option<String>,
) -> Shown {
    let found = site.service().distribution(&visitor.visit.caller, id).await;
    let (endpoint, _) = found.map_err(visitor.refused())?;
    let EndpointKind::Distribution(distribution) = &endpoint.kind else {
        return Err(Failure::not_found(site.face));
    };
    let typed = typed.unwrap_or_else(|| Typed::stored(&endpoint, distribution));
    let href = visitor.href(format_args!("/endpoints/{}", endpoint.id));
    let action = visitor.href(format_args!("/distributions/{}/edit", endpoint.id));
    let crumbs = crumbs_below(site, visitor, endpoint.tenant).await;
    let crumbs = crumbs
        .into_iter()
        .chain([Link::new(href.clone(), name_of(&endpoint))]);
    let frame = Frame::of(visitor, "Change distribution").behind(crumbs);
    let heading = format!("Change {}", distribution.name);
    let tenant = endpoint.tenant;
    form(
        site, visitor, tenant, frame, heading, action, href, false, typed, wrong,
    )
    .await
}

pub(crate) async fn change(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let mut typed = Typed::of(&fields);
    if fields.get("preview").is_some() {
        return edit_form(&site, &visitor, &id, Some(typed), None).await;
    }
    let found = site.service().endpoint(&visitor.visit.caller, &id).await;
    let (stored, _) = found.map_err(visitor.refused())?;
    if is_overtaken(&fields, stored.updated_at) {
        typed.seen = seen(stored.updated_at);
        let wrong = Some(OVERTAKEN.to_owned());
        return edit_form(&site, &visitor, &id, Some(typed), wrong).await;
    }
    let command = || {
        Ok::<_, Refusal>(DistributionPatch {
            name: Some(typed.name.clone()),
            event_name: Some(typed.event_name.clone()),
            url: Some(typed.url.clone()),
            filter: Some(typed.filter(&site)?),
            events: Some(typed.events.clone()),
            headers: Some(Some(typed.headers()?)),
            payload: Some(Some(typed.payload())),
            ..DistributionPatch::default()
        })
    };
    let who = &visitor.visit.caller;
    let changed = match command() {
        Ok(command) => site.service().change_distribution(who, &id, command).await,
        Err(refusal) => Err(refusal),
    };
    match changed {
        Ok((endpoint, _)) => {
            Ok(visitor.back_to(format_args!("/endpoints/{}", endpoint.id), "changed"))
        }
        Err(refusal) => {
            let wrong = Some(visitor.told_why(refusal)?);
            edit_form(&site, &visitor, &id, Some(typed), wrong).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_designed_line_by_line() {
        let typed = Typed {
            fields: "voucher.code as code\r\n\n customer.id \n".to_owned(),
            events: vec!["customer.rewarded".to_owned()],
            ..Typed::default()
        };
        let data = r#"{ "voucher": {"code": "A"}, "customer": {"id": 7} }"#;
        let example = example(&typed, "customer.rewarded".to_owned(), data);
        assert_eq!(example.designed.raw, r#"{"code":"A","id":7}"#);
    }
}
