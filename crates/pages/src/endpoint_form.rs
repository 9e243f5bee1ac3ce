//! Making and changing an endpoint: one form, which keeps what was typed when something is wrong.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Path, State};
use http::StatusCode;
use postrider_core::endpoint::{EndpointKind, Ordering};
use postrider_core::filter::ContentFilter;
use postrider_core::tenant::{Metadata, Mode, Scope};
use postrider_core::{Id, id};
use postrider_service::{EndpointPatch, FilterTried, NewEndpoint, Refusal};

use crate::Site;
use crate::deliveries::mode;
use crate::door::Visitor;
use crate::endpoint::{show_made, tenant_of};
use crate::failure::Failure;
use crate::fields::{Fields, OVERTAKEN, Posted, is_overtaken, seen};
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::{When, name_of};
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
    /// What the product notes for itself is the product's to see and change.
    of_product: bool,
    /// Lines say what its notes are.
    notes: bool,
    /// Where an address for it is made.
    catcher: Option<String>,
    /// What a filter would have done, once it was tried.
    tried: Option<Vec<TriedRow>>,
    wrong: Option<String>,
}

/// One of the last events, and what a filter would have done with it.
struct TriedRow {
    event: Link,
    created: When,
    unmet: Option<String>,
}

/// What was typed, and what came of it.
#[derive(Default)]
struct Typed {
    values: Option<Values>,
    tried: Option<Vec<TriedRow>>,
    wrong: Option<String>,
}

impl Typed {
    fn wrong(values: Values, wrong: String) -> Self {
        Self {
            values: Some(values),
            wrong: Some(wrong),
            ..Self::default()
        }
    }
}

#[derive(Default)]
struct Values {
    url: String,
    description: String,
    events: String,
    filter: String,
    headers: String,
    rate_limit: String,
    ordering: String,
    external_id: String,
    metadata: String,
    metadata_shown: String,
    mode: String,
    seen: String,
}

impl Values {
    fn of(fields: &Fields) -> Self {
        Self {
            url: fields.text("url"),
            description: fields.text("description"),
            events: fields.text("events"),
            filter: fields.text("filter"),
            headers: fields.text("headers"),
            rate_limit: fields.text("rate_limit"),
            ordering: fields.text("ordering"),
            external_id: fields.text("external_id"),
            metadata: fields.text("metadata"),
            metadata_shown: fields.text("metadata_shown"),
            mode: fields.text("mode"),
            seen: fields.text("seen"),
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

    fn filter(&self, site: &Site) -> Result<Option<serde_json::Value>, Refusal> {
        let filter = (!self.filter.is_empty()).then(|| site.service().read_filter(&self.filter));
        filter.transpose()
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

    fn ordering(&self) -> Result<Ordering, Refusal> {
        match self.ordering.as_str() {
            "" | "none" => Ok(Ordering::None),
            "endpoint" => Ok(Ordering::Endpoint),
            "key" => Ok(Ordering::Key),
            _ => Err(Refusal::invalid(
                "ordering",
                "must be none, endpoint or key",
            )),
        }
    }

    fn external_id(&self) -> Option<String> {
        (!self.external_id.is_empty()).then(|| self.external_id.clone())
    }

    fn description(&self) -> Option<String> {
        (!self.description.is_empty()).then(|| self.description.clone())
    }
}

/// Headers as they are typed: one on each line.
pub(crate) fn header_lines(text: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let rule = || Refusal::invalid("headers", "must be lines such as authorization: Bearer …");
    named_lines(text).ok_or_else(rule)
}

/// Notes as they are typed: one on each line.
pub(crate) fn note_lines(text: &str) -> Result<Metadata, Refusal> {
    let rule = || Refusal::invalid("metadata", "must be lines such as plan: gold");
    named_lines(text).ok_or_else(rule)
}

/// Notes as they are typed; none where lines do not say them, and only the API changes them.
pub(crate) fn written_notes(notes: &Metadata) -> Option<String> {
    let lines = notes.iter();
    let text: String = lines
        .map(|(name, note)| format!("{name}: {note}\n"))
        .collect();
    (named_lines(&text).as_ref() == Some(notes)).then_some(text)
}

/// What was typed, where that is another thing than what the form showed: what somebody else has changed meanwhile stays.
/// None where the form had no such field.
pub(crate) fn changed_notes(fields: &Fields) -> Result<Option<Metadata>, Refusal> {
    let (Some(typed), Some(shown)) = (fields.given("metadata"), fields.given("metadata_shown"))
    else {
        return Ok(None);
    };
    // Browsers send line breaks so, whatever the page had.
    let plain = |text: &str| text.replace("\r\n", "\n").trim().to_owned();
    if plain(typed) == plain(shown) {
        return Ok(None);
    }
    note_lines(typed).map(Some)
}

fn named_lines(text: &str) -> Option<BTreeMap<String, String>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let named = lines.map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    });
    named.collect()
}

pub(crate) async fn new(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    new_form(&site, &visitor, &id, Typed::default()).await
}

async fn new_form(site: &Site, visitor: &Visitor, id: &str, typed: Typed) -> Shown {
    let refused = visitor.refused();
    let tenant = tenant_of(visitor, id)?;
    let found = site.service().tenant(&visitor.visit.caller, tenant).await;
    let (_, profile) = found.map_err(&refused)?;
    let types = types(site, visitor, tenant).await.map_err(&refused)?;
    let crumbs = crumbs_below(site, visitor, tenant).await;
    let back = visitor.href(crate::endpoint::home_of(visitor, tenant));
    let form = Form {
        frame: Frame::of(visitor, "New endpoint").behind(crumbs),
        heading: "New endpoint".to_owned(),
        action: visitor.href(format_args!("/tenants/{tenant}/endpoints")),
        back,
        is_new: true,
        values: typed.values.unwrap_or_else(|| Values {
            url: visitor.query.text("url"),
            ..Values::default()
        }),
        types,
        custom_headers: profile.custom_headers.allow,
        https_only: profile.http.schemes.len() == 1,
        test_only: visitor.visit.caller.own_mode() == Mode::Test,
        notes: true,
        catcher: visitor
            .catches
            .then(|| visitor.href(format_args!("/tenants/{tenant}/catchers"))),
        of_product: is_of_product(visitor),
        tried: typed.tried,
        wrong: typed.wrong,
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
    // Before the rest of the form is read, which need not be right for this.
    if fields.get("try").is_some() {
        let mode = mode(fields.get("mode")).map_err(visitor.refused())?;
        let mode = mode.unwrap_or(visitor.visit.caller.own_mode());
        let typed = tried(&site, &visitor, tenant, mode, values).await?;
        return new_form(&site, &visitor, &id, typed).await;
    }
    // A customer's form has no field for them; one that was made by hand may.
    let of_product = is_of_product(&visitor);
    let command = || {
        Ok::<_, Refusal>(NewEndpoint {
            url: values.url.clone(),
            events: values.patterns(),
            filter: values.filter(&site)?,
            description: values.description(),
            mode: mode(fields.get("mode"))?,
            headers: values.headers()?,
            rate_limit: values.rate_limit()?,
            ordering: values.ordering()?,
            external_id: of_product.then(|| values.external_id()).flatten(),
            metadata: match of_product {
                true => note_lines(&values.metadata)?,
                false => Metadata::default(),
            },
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
            let wrong = visitor.told_why(refusal)?;
            new_form(&site, &visitor, &id, Typed::wrong(values, wrong)).await
        }
    }
}

pub(crate) async fn edit(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    edit_form(&site, &visitor, &id, Typed::default()).await
}

async fn edit_form(site: &Site, visitor: &Visitor, id: &str, typed: Typed) -> Shown {
    let refused = visitor.refused();
    let found = site.service().endpoint(&visitor.visit.caller, id).await;
    let (endpoint, current) = found.map_err(&refused)?;
    if endpoint.kind != EndpointKind::Registered {
        return Err(Failure::not_found(site.face));
    }
    let profile = &current.profile;
    let types = types(site, visitor, endpoint.tenant).await;
    let types = types.map_err(&refused)?;
    let href = visitor.href(format_args!("/endpoints/{}", endpoint.id));
    let stored = || Values {
        url: endpoint.url.clone(),
        description: endpoint.description.clone().unwrap_or_default(),
        events: endpoint.subscription.patterns().join("\n"),
        filter: endpoint.filter.as_ref().map_or_else(String::new, written),
        headers: endpoint
            .headers
            .iter()
            // Stars that come back keep the value that is there.
            .map(|header| format!("{}: ****\n", header.name))
            .collect(),
        rate_limit: endpoint
            .rate_limit
            .map_or_else(String::new, |rate| rate.to_string()),
        ordering: match endpoint.ordering {
            Ordering::None => "none",
            Ordering::Endpoint => "endpoint",
            Ordering::Key => "key",
        }
        .to_owned(),
        external_id: endpoint.external_id.clone().unwrap_or_default(),
        metadata: written_notes(&endpoint.metadata).unwrap_or_default(),
        metadata_shown: written_notes(&endpoint.metadata).unwrap_or_default(),
        mode: endpoint.mode.as_str().to_owned(),
        seen: seen(endpoint.updated_at),
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
        values: typed.values.unwrap_or_else(stored),
        types,
        custom_headers: profile.custom_headers.allow,
        https_only: profile.http.schemes.len() == 1,
        test_only: false,
        notes: written_notes(&endpoint.metadata).is_some(),
        catcher: None,
        of_product: is_of_product(visitor),
        tried: typed.tried,
        wrong: typed.wrong,
    };
    answered(&form)
}

/// What a browser makes of a text in a field of one line.
fn joined(text: Option<&str>) -> String {
    text.unwrap_or_default().replace(['\r', '\n'], "")
}

pub(crate) async fn change(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let mut values = Values::of(&fields);
    let who = &visitor.visit.caller;
    let found = site.service().endpoint(who, &id).await;
    let (endpoint, current) = found.map_err(visitor.refused())?;
    if fields.get("try").is_some() {
        let typed = tried(&site, &visitor, endpoint.tenant, endpoint.mode, values).await?;
        return edit_form(&site, &visitor, &id, typed).await;
    }
    if is_overtaken(&fields, endpoint.updated_at) {
        values.seen = seen(endpoint.updated_at);
        let typed = Typed::wrong(values, OVERTAKEN.to_owned());
        return edit_form(&site, &visitor, &id, typed).await;
    }
    let custom_headers = current.profile.custom_headers.allow;
    let of_product = is_of_product(&visitor);
    let command = || {
        Ok::<_, Refusal>(EndpointPatch {
            url: Some(values.url.clone()),
            events: Some(values.patterns()),
            filter: Some(values.filter(&site)?),
            // A field has one line: of a description with more it shows them joined, and saving that would change it.
            description: (values.description != joined(endpoint.description.as_deref()).trim())
                .then(|| values.description()),
            // Where the profile takes none the form has no field: empty, it would take away what is there.
            headers: custom_headers
                .then(|| values.headers())
                .transpose()?
                .map(Some),
            rate_limit: Some(values.rate_limit()?),
            ordering: (!values.ordering.is_empty())
                .then(|| values.ordering().map(Some))
                .transpose()?,
            external_id: of_product.then(|| values.external_id()),
            metadata: match of_product {
                true => changed_notes(&fields)?.map(Some),
                false => None,
            },
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
            let wrong = visitor.told_why(refusal)?;
            edit_form(&site, &visitor, &id, Typed::wrong(values, wrong)).await
        }
    }
}

/// What the typed filter would have done with the last events; nothing is saved.
async fn tried(
    site: &Site,
    visitor: &Visitor,
    tenant: Id<id::Tenant>,
    mode: Mode,
    values: Values,
) -> Result<Typed, Failure> {
    let (service, who) = (site.service(), &visitor.visit.caller);
    let now = service.now();
    let tried = match values.filter(site) {
        Ok(Some(filter)) => {
            let events = values.patterns();
            service.try_filter(who, tenant, mode, events, filter).await
        }
        Ok(None) => Err(Refusal::invalid(
            "filter",
            "is empty: every event goes through",
        )),
        Err(refusal) => Err(refusal),
    };
    let row = |tried: FilterTried| TriedRow {
        event: Link::new(
            visitor.href(format_args!("/events/{}", tried.event.id)),
            tried.event.event_type.as_ref(),
        ),
        created: When::new(tried.event.created_at, now),
        unmet: tried.unmet,
    };
    match tried {
        Ok(tried) => Ok(Typed {
            values: Some(values),
            tried: Some(tried.into_iter().map(row).collect()),
            wrong: None,
        }),
        Err(refusal) => Ok(Typed::wrong(values, visitor.told_why(refusal)?)),
    }
}

fn is_of_product(visitor: &Visitor) -> bool {
    !matches!(visitor.visit.caller.scope(), Scope::Tenant(..))
}

/// A filter with lines.
pub(crate) fn written(filter: &ContentFilter) -> String {
    serde_json::to_string_pretty(filter.written()).unwrap_or_else(|_| filter.text())
}

fn answered(form: &Form) -> Shown {
    let status = match form.wrong {
        Some(_) => StatusCode::BAD_REQUEST,
        None => StatusCode::OK,
    };
    frame::show_as(status, &form.frame, form)
}

/// What can be subscribed to: the profile's types, and those that the application declares.
async fn types(
    site: &Site,
    visitor: &Visitor,
    tenant: Id<id::Tenant>,
) -> Result<Vec<String>, Refusal> {
    let (service, who) = (site.service(), &visitor.visit.caller);
    let (tenant, profile) = service.tenant(who, tenant).await?;
    let listed = service.event_type_names(who, tenant.application).await?;
    /// More than anybody reads.
    const TOLD: usize = 150;
    let mut types = profile.events.closed.clone().unwrap_or_default();
    // A closed catalogue has what can be subscribed to; what else is described there triggers distributions.
    let is_closed = profile.events.closed.is_some();
    let listed = listed.into_iter();
    for known in listed.filter(|known| !is_closed || known.is_declared) {
        if !types.contains(&known.name) {
            types.push(known.name);
        }
    }
    types.truncate(TOLD);
    Ok(types)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_that_lines_do_not_say_stay_as_they_are() {
        let notes = |pairs: &[(&str, &str)]| -> Metadata {
            let owned = pairs.iter();
            owned
                .map(|(name, note)| ((*name).to_owned(), (*note).to_owned()))
                .collect()
        };
        let plain = notes(&[("plan", "gold: really"), ("region", "eu")]);
        let written = written_notes(&plain).unwrap();
        let posted = |typed: &str| {
            let pairs = [("metadata", typed), ("metadata_shown", &written)];
            let form = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(pairs)
                .finish();
            changed_notes(&Fields::parse(form.as_bytes())).unwrap()
        };
        assert_eq!(posted(&written.replace('\n', "\r\n")), None);
        assert_eq!(posted("plan: free"), Some(notes(&[("plan", "free")])));
        assert_eq!(posted(""), Some(notes(&[])));
        assert_eq!(changed_notes(&Fields::default()).unwrap(), None);
        for odd in [
            notes(&[("crm:id", "7")]),
            notes(&[("a", "one\ntwo: three")]),
            notes(&[("a", " blanks ")]),
        ] {
            assert_eq!(written_notes(&odd), None);
        }
    }
}
