//! The keys of products: with them a program publishes and manages.

use askama::Template;
use axum::extract::State;
use postrider_core::tenant::{Mode, Scope};
use postrider_service::{KeyShown, NewKey, PageRequest, Refusal};

use crate::Site;
use crate::deliveries::mode;
use crate::door::Visitor;
use crate::failure::sentence;
use crate::fields::{Fields, Posted};
use crate::frame::{self, Frame, Link, Shown};
use crate::key::{self, Answer};
use crate::shown::{When, next_of, page_of};

/// Applications that a key can be made for by the form; more can by the API.
const CHOICES: usize = 250;

#[derive(Template)]
#[template(path = "product_keys.html")]
struct Keys {
    frame: Frame,
    rows: Vec<Row>,
    next: Option<String>,
    name: String,
    applications: Vec<Choice>,
    /// The whole server was chosen.
    whole: bool,
    test: bool,
    read_only: bool,
    root: bool,
    may_make: bool,
    wrong: Option<String>,
}

struct Choice {
    id: String,
    label: String,
    chosen: bool,
}

struct Row {
    link: Link,
    reach: &'static str,
    test: bool,
    read_only: bool,
    disabled: bool,
    expires: Option<When>,
    made: When,
}

pub(crate) async fn list(State(site): State<Site>, visitor: Visitor) -> Shown {
    page(&site, &visitor, &Fields::default(), None).await
}

async fn page(site: &Site, visitor: &Visitor, typed: &Fields, wrong: Option<String>) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let asked = page_of(visitor).map_err(&refused)?;
    let keys = service.list_keys(who, None, asked).await;
    let keys = keys.map_err(&refused)?;
    let next = next_of(&keys, "/keys", &[]);
    let now = service.now();
    let root = who.scope() == Scope::Root;
    let choice = |(id, label): (String, String)| Choice {
        chosen: typed.get("application") == Some(id.as_str()),
        id,
        label,
    };
    let applications = match who.scope() {
        Scope::Root => {
            let first = PageRequest::first(CHOICES);
            let listed = service.list_applications(who, first).await;
            let rows = listed.map_err(&refused)?.rows.into_iter();
            rows.map(|row| (row.id.to_string(), row.name)).collect()
        }
        Scope::Application(own) => {
            let own = service.application(who, own).await.map_err(&refused)?;
            vec![(own.id.to_string(), own.name.clone())]
        }
        Scope::Tenant(..) => Vec::new(),
    };
    let row = |shown: KeyShown| {
        let key = shown.key;
        Row {
            link: Link::new(format!("/keys/{}", key.id), key.name),
            reach: match key.scope {
                Scope::Root => "the server",
                Scope::Application(_) => "an application",
                Scope::Tenant(..) => "a customer",
            },
            test: key.mode == Mode::Test,
            read_only: key.read_only,
            disabled: key.disabled_at.is_some(),
            expires: key.expires_at.map(|at| When::new(at, now)),
            made: When::new(key.created_at, now),
        }
    };
    let status = match wrong {
        Some(_) => http::StatusCode::BAD_REQUEST,
        None => http::StatusCode::OK,
    };
    let frame = Frame::of(visitor, "Keys").behind([Link::new("/", "Overview")]);
    let page = Keys {
        rows: keys.rows.into_iter().map(row).collect(),
        next,
        name: typed.text("name"),
        // Of a form that came back: before one is sent nothing was chosen.
        whole: wrong.is_some() && typed.get("application").is_none(),
        test: typed.get("mode") == Some("test"),
        read_only: typed.get("read_only").is_some(),
        applications: applications.into_iter().map(choice).collect(),
        root,
        may_make: frame.may_change() && who.is_owner(),
        wrong,
        frame,
    };
    frame::show_as(status, &page.frame, &page)
}

pub(crate) async fn create(State(site): State<Site>, posted: Posted) -> Shown {
    let Posted { visitor, fields } = posted;
    let command = || {
        let application = fields.get("application").map(str::parse).transpose();
        let wrong = |_| Refusal::invalid("application", "is none of yours");
        Ok::<_, Refusal>(NewKey {
            name: fields.text("name"),
            application: application.map_err(wrong)?,
            mode: mode(fields.get("mode"))?,
            read_only: fields.get("read_only").is_some(),
            ..NewKey::default()
        })
    };
    let who = &visitor.visit.caller;
    let asked = match command() {
        Ok(new) => site.service().create_key(who, new).await,
        Err(refusal) => Err(refusal),
    };
    match asked {
        Ok(new) => key::page(&site, &visitor, new.shown.key.id, Answer::of(new)).await,
        Err(refusal) => page(&site, &visitor, &fields, Some(sentence(&refusal))).await,
    }
}
