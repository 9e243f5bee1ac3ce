//! What a tenant can get: its event types, with an example of each that can be sent to an endpoint as a test.

use askama::Template;
use axum::extract::{Path, State};
use postrider_core::endpoint::Endpoint;
use postrider_core::tenant::Mode;
use postrider_core::{Id, id};
use postrider_service::{Caller, EventTypeListed, Refusal, Service, TestAsked};

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
    let types = Types::found(service, who, found.application, &find).await;
    let types = types.map_err(&refused)?;
    let sentence = sentence(types.known);
    let finds = types.known >= FIND_FROM || !find.is_empty();
    let frame = Frame::of(visitor, "Event types").behind(crumbs_below(site, visitor, tenant).await);
    let more = types.more();
    let mut types = types.rows();
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

/// Types of which some are shown.
#[derive(Default)]
pub(crate) struct Types {
    /// All that are known.
    known: usize,
    /// Those that were looked for.
    found: usize,
    /// The first of them, without texts that are too long to be shown among others.
    first: Vec<EventTypeListed>,
}

impl Types {
    /// Those with a text in their names.
    pub(crate) async fn found(
        service: &Service,
        who: &Caller,
        application: Id<id::Application>,
        find: &str,
    ) -> Result<Self, Refusal> {
        let mut types = Self::default();
        let each = |listed: EventTypeListed| {
            types.known += 1;
            if listed.name().contains(find) {
                types.found += 1;
                types.take(listed);
            }
            Ok(())
        };
        service.each_event_type(who, application, each).await?;
        Ok(types)
    }

    fn take(&mut self, listed: EventTypeListed) {
        // The only one is shown whole, as far as a page has room.
        if let [only] = self.first.as_mut_slice() {
            shorten(only);
        }
        if self.first.len() < TYPES_SHOWN {
            self.first.push(listed);
            if let [_, .., last] = self.first.as_mut_slice() {
                shorten(last);
            }
        }
    }

    /// How many are not shown.
    pub(crate) fn more(&self) -> usize {
        self.found - self.first.len()
    }

    /// Those that are, with what they carry as far as a page has room for it.
    pub(crate) fn rows(self) -> Vec<TypeRow> {
        type_rows(self.first)
    }
}

/// Lets texts go that are not shown; that there is one is told by an empty one, which nobody can have written.
fn shorten(listed: &mut EventTypeListed) {
    let texts = match listed {
        EventTypeListed::Application(own) => {
            own.vendor = None;
            [&mut own.description, &mut own.schema, &mut own.example]
        }
        EventTypeListed::Profile(described) => [
            &mut described.description,
            &mut described.schema,
            &mut described.example,
        ],
    };
    for text in texts.into_iter().flatten() {
        if text.len() > TEXT_SHOWN_MAX {
            *text = String::new();
        }
    }
}

fn type_rows(types: Vec<EventTypeListed>) -> Vec<TypeRow> {
    let bare = |listed: &EventTypeListed| ROW_BYTES + NAME_WRITTEN * listed.name().len();
    let rows: usize = types.iter().map(bare).sum();
    let mut room = TEXTS_SHOWN_MAX.saturating_sub(rows);
    // The only one has the whole room: it was looked for by its name.
    let each = match types.len() {
        1 => TEXTS_SHOWN_MAX,
        _ => TEXT_SHOWN_MAX,
    };
    let rows = types.into_iter();
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
        let text = Some(text).filter(|text| !text.is_empty() && text.len() <= each)?;
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
