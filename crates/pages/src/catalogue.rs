//! What a tenant can get: its event types, with an example of each that can be sent to an endpoint as a test.

use askama::Template;
use axum::extract::{Path, State};
use postrider_core::endpoint::Endpoint;
use postrider_core::tenant::Mode;
use postrider_core::{Id, id};
use postrider_service::{EventTypeListed, Refusal, TestAsked};

use crate::Site;
use crate::door::Visitor;
use crate::endpoint::{TestShown, tenant_of, tested};
use crate::failure::Failure;
use crate::fields::Posted;
use crate::frame::{self, Frame, Shown};
use crate::shown::{name_of, pretty};
use crate::tenant::crumbs_below;
use crate::words::counted;

/// Event types on a page.
pub(crate) const TYPES_SHOWN: usize = 100;
/// Bytes of an example, and of a schema, that is shown there among others.
const TEXT_SHOWN_MAX: usize = 4 * 1024;
/// Bytes that all of them have on a page, as HTML: what is over that is found by its name.
const TEXTS_SHOWN_MAX: usize = 72 * 1024;
/// Bytes of a type without what it carries: its name is written three times.
const ROW_BYTES: usize = 320;
const NAME_WRITTEN: usize = 3;
/// So many types are looked through by eye.
const FIND_FROM: usize = 8;
/// Endpoints of a kind to choose from for a test.
const CHOICES_OF_KIND: usize = 25;
/// Letters of an endpoint's name in that choice.
const CHOICE_LETTERS: usize = 60;

/// What is known of an event type.
pub(crate) struct TypeRow {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) example: Option<String>,
    /// Why no example is shown.
    pub(crate) without: &'static str,
    pub(crate) schema: Option<String>,
    /// Whether it has an example to be sent.
    pub(crate) tests: bool,
    /// Whether it is what was just tried.
    pub(crate) open: bool,
}

#[derive(Template)]
#[template(path = "catalogue.html")]
struct Catalogue {
    frame: Frame,
    action: String,
    /// Where receivers read how they verify.
    verify: String,
    sentence: String,
    find: String,
    types: Vec<TypeRow>,
    more: usize,
    choices: Vec<Choice>,
    more_choices: bool,
    /// Whether there are so many types that they are looked for by name.
    finds: bool,
    /// Whether there is something to send as a test, and the visitor may send it.
    sends: bool,
    test_call: Option<TestShown>,
    problem: Option<String>,
}

/// An endpoint that a test can be sent to.
struct Choice {
    id: String,
    label: String,
    chosen: bool,
}

/// A test that was asked for, and how it went.
struct Tried {
    endpoint: String,
    event_type: String,
    outcome: Result<TestShown, String>,
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let find = visitor.query.text("find");
    page(&site, &visitor, &id, find, None).await
}

/// Sends the example of a type to one of the tenant's endpoints.
pub(crate) async fn test(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let (service, who) = (site.service(), &visitor.visit.caller);
    let tenant = tenant_of(&visitor, &id)?;
    let (endpoint, event_type) = (fields.text("endpoint"), fields.text("type"));
    let found = service.endpoint(who, &endpoint).await;
    let (found, _) = found.map_err(visitor.refused())?;
    // An operator reaches other customers' endpoints too; the page is of this one.
    if found.tenant != tenant {
        return Err(Failure::not_found(site.face));
    }
    let subject = format!("{event_type} to {}", label(&found));
    let asked = TestAsked {
        event_type: Some(event_type.clone()),
        data: None,
    };
    let sent = tested(&site, &visitor, &endpoint, asked, subject).await;
    let outcome = match sent {
        Ok(shown) => Ok(shown),
        Err(refusal) => Err(visitor.told_why(refusal)?),
    };
    let tried = Tried {
        endpoint,
        event_type,
        outcome,
    };
    page(&site, &visitor, &id, fields.text("find"), Some(tried)).await
}

async fn page(
    site: &Site,
    visitor: &Visitor,
    id: &str,
    find: String,
    tried: Option<Tried>,
) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let tenant = tenant_of(visitor, id)?;
    let (found, _) = service.tenant(who, tenant).await.map_err(&refused)?;
    let types = service.list_event_types(who, found.application).await;
    let mut types = types.map_err(&refused)?;
    // Of all, before those are left out that are not looked for.
    let sentence = sentence(types.len());
    let finds = types.len() >= FIND_FROM || !find.is_empty();
    types.retain(|listed| name(listed).contains(&find));
    let frame = Frame::of(visitor, "Event types").behind(crumbs_below(site, visitor, tenant).await);
    let more = types.len().saturating_sub(TYPES_SHOWN);
    let mut types = type_rows(types);
    if let Some(tried) = &tried {
        let mut rows = types.iter_mut();
        if let Some(row) = rows.find(|row| row.name == tried.event_type) {
            row.open = true;
        }
    }
    let sends = frame.may_change() && types.iter().any(|row| row.tests);
    let chosen = tried.as_ref().map(|tried| tried.endpoint.as_str());
    // It takes several lists of the store, so only where there is something to send.
    let (choices, more_choices) = match sends {
        true => choices(site, visitor, tenant, chosen)
            .await
            .map_err(&refused)?,
        false => (Vec::new(), false),
    };
    let (test_call, problem) = match tried.map(|tried| tried.outcome) {
        Some(Ok(shown)) => (Some(shown), None),
        Some(Err(problem)) => (None, Some(problem)),
        None => (None, None),
    };
    let page = Catalogue {
        action: visitor.href(format_args!("/tenants/{tenant}/event-types")),
        verify: visitor.href(format_args!("/tenants/{tenant}/verify#functions")),
        sentence,
        find,
        more,
        finds,
        sends,
        types,
        choices,
        more_choices,
        test_call,
        problem,
        frame,
    };
    frame::show(&page.frame, &page)
}

fn sentence(count: usize) -> String {
    match count {
        0 => "None is known by name: any type can be sent.".to_owned(),
        some => format!("{} known.", counted(some as u64, "type is", "types are")),
    }
}

/// What a test can be sent to, and whether there is more of it.
async fn choices(
    site: &Site,
    visitor: &Visitor,
    tenant: Id<id::Tenant>,
    chosen: Option<&str>,
) -> Result<(Vec<Choice>, bool), Refusal> {
    let (service, who) = (site.service(), &visitor.visit.caller);
    let of_each = CHOICES_OF_KIND;
    let found = service.endpoints_of_every_kind(who, tenant, of_each);
    let (found, more) = found.await?;
    let choice = |endpoint: &Endpoint| {
        let id = endpoint.id.to_string();
        Choice {
            chosen: chosen == Some(id.as_str()),
            label: label(endpoint),
            id,
        }
    };
    Ok((found.iter().map(choice).collect(), more))
}

/// An endpoint in a few words.
fn label(endpoint: &Endpoint) -> String {
    let name = name_of(endpoint);
    let mut label: String = name.chars().take(CHOICE_LETTERS).collect();
    if label.len() < name.len() {
        label.push('…');
    }
    if endpoint.mode == Mode::Test {
        label.push_str(" (test)");
    }
    label
}

fn name(listed: &EventTypeListed) -> &str {
    match listed {
        EventTypeListed::Application(declared) => &declared.name,
        EventTypeListed::Profile(described) => &described.name,
    }
}

/// The first of them, with what they carry as far as a page has room for it.
pub(crate) fn type_rows(types: Vec<EventTypeListed>) -> Vec<TypeRow> {
    let bare = |listed: &EventTypeListed| ROW_BYTES + NAME_WRITTEN * name(listed).len();
    let rows: usize = types.iter().take(TYPES_SHOWN).map(bare).sum();
    let mut room = TEXTS_SHOWN_MAX.saturating_sub(rows);
    // The only one has the whole room: it was looked for by its name.
    let each = match types.len() {
        1 => TEXTS_SHOWN_MAX,
        _ => TEXT_SHOWN_MAX,
    };
    let rows = types.into_iter().take(TYPES_SHOWN);
    rows.map(|listed| type_row(listed, each, &mut room))
        .collect()
}

/// With the texts that have so many bytes each at most, and fit what room is left.
fn type_row(listed: EventTypeListed, each: usize, room: &mut usize) -> TypeRow {
    let (name, description, example, schema) = match listed {
        EventTypeListed::Application(declared) => (
            declared.name,
            declared.description,
            declared.example,
            declared.schema,
        ),
        EventTypeListed::Profile(described) => (
            described.name,
            described.description,
            described.example,
            described.schema,
        ),
    };
    let tests = example.is_some();
    let mut shown = |text: String| {
        let text = Some(text).filter(|text| text.len() <= each)?;
        let text = pretty(text.as_bytes()).unwrap_or(text);
        // What does not fit takes no room from those behind it.
        *room = room.checked_sub(html_bytes(&text))?;
        Some(text)
    };
    let description = description.and_then(&mut shown).unwrap_or_default();
    TypeRow {
        name,
        description,
        example: example.and_then(&mut shown),
        without: match tests {
            true => "There is no room for its example among the others.",
            false => "No example is known.",
        },
        schema: schema.and_then(&mut shown),
        tests,
        open: false,
    }
}

/// Bytes of a text on a page, where some letters are written as `&#34;`.
fn html_bytes(text: &str) -> usize {
    const WRITTEN: usize = "&#34;".len();
    let marks = text.bytes().filter(|byte| b"\"'<>&".contains(byte));
    text.len() + marks.count() * (WRITTEN - 1)
}
