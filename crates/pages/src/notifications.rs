//! What somebody had to be told, and who is told how.

use askama::Template;
use axum::extract::{Path, State};
use postrider_core::notice::{Channels, Notice, NoticeClass, NoticeKind};
use postrider_core::tenant::Mode;
use postrider_service::{NoticeQuery, TenantPatch};
use serde_json::{Map, Value, json};

use crate::Site;
use crate::door::Visitor;
use crate::endpoint::tenant_of;
use crate::failure::Failure;
use crate::fields::{Fields, OVERTAKEN, Posted, is_overtaken, seen};
use crate::frame::{self, Frame, Shown};
use crate::shown::{When, next_of, page_of};
use crate::tenant::crumbs_below;
use crate::words::counted;

#[derive(Template)]
#[template(path = "notifications.html")]
struct Notifications {
    frame: Frame,
    heading: String,
    tenant: String,
    sentence: String,
    rows: Vec<Row>,
    /// The newest one, up to which all are read by the button.
    newest: Option<String>,
    next: Option<String>,
    classes: Vec<Class>,
    /// Nobody wants to be told.
    nobody: bool,
    unconfirmed: Vec<String>,
    seen: String,
    may_set: bool,
    problem: Option<String>,
}

/// A notice as a row of a list.
pub(crate) struct Row {
    pub(crate) at: When,
    pub(crate) what: String,
    pub(crate) href: String,
    pub(crate) error: String,
    pub(crate) url: String,
    pub(crate) unread: bool,
    pub(crate) test: bool,
}

/// The settings of one kind of endpoint.
struct Class {
    name: &'static str,
    label: String,
    in_app: bool,
    email: bool,
    emails: String,
}

impl Class {
    fn new(name: &'static str, label: &str, channels: &Channels) -> Self {
        Self {
            name,
            label: label.to_owned(),
            in_app: channels.in_app,
            email: channels.email,
            emails: channels.emails.join("\n"),
        }
    }

    /// As the form has it that was not taken.
    fn type_in(&mut self, typed: &Fields) {
        let field = |name: &str| format!("{}.{name}", self.name);
        if typed.get(&field("is")).is_none() {
            return;
        }
        let (in_app, email) = (typed.get(&field("inApp")), typed.get(&field("email")));
        let emails = typed.text(&field("emails"));
        self.in_app = in_app.is_some();
        self.email = email.is_some();
        self.emails = emails;
    }
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    page(&site, &visitor, &id, None).await
}

/// With what was typed and why it was not taken, where it was not.
async fn page(site: &Site, visitor: &Visitor, id: &str, wrong: Option<(Fields, String)>) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let tenant = tenant_of(visitor, id)?;
    let now = service.now();
    let (found, profile) = service.tenant(who, tenant).await.map_err(&refused)?;
    let asked = page_of(visitor).map_err(&refused)?;
    let query = NoticeQuery::default();
    let listed = service.list_notices(who, tenant, query, asked).await;
    let listed = listed.map_err(&refused)?;
    let path = visitor.href(format_args!("/tenants/{tenant}/notifications"));
    let next = next_of(&listed, &path, &[]);
    let unread = listed.rows.iter().filter(|notice| notice.read_at.is_none());
    let unread = unread.count() as u64;
    let settings = &found.settings.notifications;
    let names = &profile.portal;
    let mut classes = vec![Class::new("webhooks", &names.endpoints, &settings.webhooks)];
    if profile.distribution.is_some() {
        let own = &settings.distributions;
        classes.push(Class::new("distributions", &names.distributions, own));
    }
    // By what is stored, before a form that was not taken is put over it.
    let nobody = classes.iter().all(|class| !class.in_app && !class.email);
    let (typed, problem) = wrong.unzip();
    if let Some(typed) = &typed {
        classes.iter_mut().for_each(|class| class.type_in(typed));
    }
    let page = Notifications {
        frame: Frame::of(visitor, names.notifications.clone())
            .behind(crumbs_below(site, visitor, tenant).await),
        heading: names.notifications.clone(),
        tenant: tenant.to_string(),
        sentence: match (listed.rows.len(), unread) {
            (0, _) if nobody => "Notifications are off: nobody is told of what fails.".to_owned(),
            (0, _) => "Nothing to tell.".to_owned(),
            (_, 0) => "Nothing new.".to_owned(),
            (_, unread) => format!("{} on this page.", counted(unread, "new one", "new ones")),
        },
        newest: (unread > 0)
            .then(|| listed.rows.first().map(|newest| newest.id.to_string()))
            .flatten(),
        rows: listed
            .rows
            .iter()
            .map(|notice| row(visitor, notice, now))
            .collect(),
        next,
        classes,
        nobody,
        unconfirmed: settings.unconfirmed.clone(),
        seen: match &typed {
            // Of what was not taken for another reason the first sight still counts.
            Some(typed) if !is_overtaken(typed, found.updated_at) => typed.text("seen"),
            Some(_) | None => seen(found.updated_at),
        },
        may_set: !who.is_read_only() && who.own_mode() == Mode::Live,
        problem,
    };
    frame::show(&page.frame, &page)
}

pub(crate) fn row(visitor: &Visitor, notice: &Notice, now: postrider_core::Timestamp) -> Row {
    let event_type = &notice.event_type;
    let attempts = counted(notice.attempts.into(), "attempt", "attempts");
    let what = match (notice.kind, notice.class) {
        (NoticeKind::DeliveryFailed, _) => format!("{event_type} failed after {attempts}"),
        (NoticeKind::EndpointDisabled, NoticeClass::Webhooks) => {
            format!("The endpoint was disabled when {event_type} failed")
        }
        (NoticeKind::EndpointDisabled, NoticeClass::Distributions) => {
            format!("The distribution was paused when {event_type} failed")
        }
    };
    Row {
        at: When::new(notice.at, now),
        what,
        href: visitor.href(format_args!("/deliveries/{}", notice.delivery)),
        error: notice.error.clone(),
        url: notice.url.clone(),
        unread: notice.read_at.is_none(),
        test: notice.mode == Mode::Test,
    }
}

/// The two forms of the page.
pub(crate) async fn act(
    State(site): State<Site>,
    Path((id, act)): Path<(String, String)>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let tenant = tenant_of(&visitor, &id)?;
    let (service, who) = (site.service(), &visitor.visit.caller);
    let (done, word) = match act.as_str() {
        "read" => {
            let newest = fields.get("newest").unwrap_or_default();
            let newest = crate::shown::read(&visitor, newest)?;
            let read = service.read_notices(who, tenant, newest).await;
            (read.map(drop), "read")
        }
        "settings" => {
            let found = service.tenant(who, tenant).await;
            let (stored, _) = found.map_err(visitor.refused())?;
            if is_overtaken(&fields, stored.updated_at) {
                let wrong = Some((fields, OVERTAKEN.to_owned()));
                return page(&site, &visitor, &id, wrong).await;
            }
            let waiting = &stored.settings.notifications.unconfirmed;
            let patch = TenantPatch {
                settings: Some(settings(&fields, waiting)),
                ..TenantPatch::default()
            };
            let changed = service.change_tenant(who, tenant, patch).await;
            (changed.map(drop), "changed")
        }
        _ => return Err(Failure::not_found(site.face)),
    };
    match done {
        Ok(()) => Ok(visitor.back_to(format_args!("/tenants/{tenant}/notifications"), word)),
        Err(refusal) => {
            page(
                &site,
                &visitor,
                &id,
                Some((fields, visitor.told_why(refusal)?)),
            )
            .await
        }
    }
}

/// What the form says of each kind that it has. Whoever saves it does not vouch for the addresses that are `waiting` to be
/// confirmed: they were there before.
fn settings(fields: &Fields, waiting: &[String]) -> Map<String, Value> {
    let mut classes = Map::new();
    for class in ["webhooks", "distributions"] {
        let field = |name: &str| format!("{class}.{name}");
        if fields.get(&field("is")).is_none() {
            continue;
        }
        let emails = fields.text(&field("emails"));
        let emails: Vec<&str> = emails.split([',', '\n', '\r', ' ']).collect();
        let emails: Vec<&str> = emails
            .into_iter()
            .filter(|email| !email.is_empty())
            .collect();
        let channels = json!({
            "inApp": fields.get(&field("inApp")).is_some(),
            "email": fields.get(&field("email")).is_some(),
            "emails": emails,
        });
        classes.insert(class.to_owned(), channels);
    }
    classes.insert("unconfirmed".to_owned(), json!(waiting));
    let mut settings = Map::new();
    settings.insert("notifications".to_owned(), Value::Object(classes));
    settings
}
