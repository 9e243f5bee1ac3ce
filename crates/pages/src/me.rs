//! Whoever is there: what they may, their password, and where else they are in.

use askama::Template;
use axum::extract::{Path, State};
use postrider_core::Secret;
use postrider_core::session::Session;
use postrider_core::tenant::Scope;
use postrider_core::user::Role;
use postrider_service::PageRequest;

use crate::Site;
use crate::door::{Visitor, let_in, typed_twice};
use crate::failure::Failure;
use crate::fields::Posted;
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::{ROWS, When, read};

#[derive(Template)]
#[template(path = "me.html")]
struct Me {
    frame: Frame,
    name: String,
    sentence: String,
    /// They have a password, and since when.
    password: Option<When>,
    visits: Vec<VisitRow>,
    more: bool,
    wrong: Option<String>,
}

struct VisitRow {
    id: String,
    came: When,
    ends: When,
    present: bool,
    /// It is a link that nobody used yet.
    unused: bool,
}

pub(crate) async fn show(State(site): State<Site>, visitor: Visitor) -> Shown {
    page(&site, &visitor, None).await
}

async fn page(site: &Site, visitor: &Visitor, wrong: Option<String>) -> Shown {
    let (service, who) = (site.service(), &visitor.visit.caller);
    let now = service.now();
    let asked = PageRequest::first(ROWS);
    let visits = service.own_sessions(&visitor.visit, asked).await;
    let visits = visits.map_err(visitor.refused())?;
    let password = who.user().and_then(|user| user.password.as_ref());
    let row = |session: Session| VisitRow {
        came: When::new(session.opened_at.unwrap_or(session.created_at), now),
        ends: When::new(session.expires_at, now),
        present: session.id == visitor.visit.session.id,
        unused: session.opened_at.is_none(),
        id: session.id.to_string(),
    };
    let status = match wrong {
        Some(_) => http::StatusCode::BAD_REQUEST,
        None => http::StatusCode::OK,
    };
    let page = Me {
        frame: Frame::of(visitor, "You").behind([Link::new("/", "Overview")]),
        name: who.name().to_owned(),
        sentence: sentence(visitor),
        password: password.map(|chosen| When::new(chosen.since, now)),
        more: visits.next.is_some(),
        visits: visits
            .rows
            .into_iter()
            .filter(|session| session.expires_at > now)
            .map(row)
            .collect(),
        wrong,
    };
    frame::show_as(status, &page.frame, &page)
}

/// What somebody may do here.
fn sentence(visitor: &Visitor) -> String {
    let who = &visitor.visit.caller;
    let reach = match who.scope() {
        Scope::Root => "the whole server",
        Scope::Application(_) => "one application",
        Scope::Tenant(..) => "one customer",
    };
    match who.user().map(|user| user.role) {
        Some(Role::Owner) => format!("You are an owner: you may do everything, for {reach}."),
        Some(Role::Developer) => format!(
            "You are a developer: you may change and send, for {reach}; users, the keys of products and what is deleted for good are an owner’s."
        ),
        Some(Role::Viewer) => {
            format!("You are a viewer: you see everything but secrets, for {reach}.")
        }
        None => format!("You came in with this key, and may do what it may, for {reach}."),
    }
}

pub(crate) async fn password(State(site): State<Site>, posted: Posted) -> Shown {
    let Posted { visitor, fields } = posted;
    let service = site.service();
    let present = Secret::new(fields.exact("present"));
    let changed = match typed_twice(&fields) {
        Ok(new) => {
            let changed = service.change_password(&visitor.visit, &present, &new, visitor.from);
            changed.await
        }
        Err(refusal) => Err(refusal),
    };
    match changed {
        Ok(Some((token, visit))) => {
            // It has ended all of their visits, so this one goes on by another cookie.
            let to = "/me?told=password";
            Ok(let_in(&site, visitor.secure, &token, &visit.session, to))
        }
        // Somebody else has changed it meanwhile: whoever this is proves themselves anew.
        Ok(None) => Err(Failure::SignIn(site.face, "/me".to_owned())),
        Err(refusal) => page(&site, &visitor, Some(visitor.told_why(refusal)?)).await,
    }
}

/// Ends one of their visits.
pub(crate) async fn end(State(site): State<Site>, Path(id): Path<String>, posted: Posted) -> Shown {
    let visitor = posted.visitor;
    let id = read(&visitor, &id)?;
    let service = site.service();
    let ended = service.end_own_session(&visitor.visit, id).await;
    ended.map_err(visitor.refused())?;
    Ok(visitor.back_to("/me", "visit-ended"))
}
