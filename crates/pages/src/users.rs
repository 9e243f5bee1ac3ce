//! The console's users: who may come in, and as what.

use askama::Template;
use axum::extract::{Path, State};
use postrider_core::Secret;
use postrider_core::user::{Role, User};
use postrider_service::{NewUser, PageRequest, Refusal, UserPatch};

use crate::Site;
use crate::door::Visitor;
use crate::failure::{Failure, sentence};
use crate::fields::{Fields, Posted};
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::{When, next_of, page_of, read};
use crate::words::counted;

/// Applications that a user can be confined to by the form; more can by the API.
const CHOICES: usize = 250;

#[derive(Template)]
#[template(path = "users.html")]
struct Users {
    frame: Frame,
    sentence: String,
    rows: Vec<Row>,
    next: Option<String>,
    /// What is typed: it stays when it is refused.
    name: String,
    role: Role,
    roles: [Role; 3],
    applications: Vec<Choice>,
    /// Whoever asks reaches everything.
    all: bool,
    /// A link to be handed on, and to whom.
    link: Option<(String, String)>,
    /// Nobody has said how people reach this server: the link is as it was asked for.
    guessed: bool,
    wrong: Option<String>,
}

struct Choice {
    id: String,
    name: String,
    chosen: bool,
}

struct Row {
    id: String,
    name: String,
    role: Role,
    reach: String,
    /// Neither is changed by oneself.
    own: bool,
    active: bool,
    chose: Option<When>,
    made: When,
}

/// What an act leaves to be shown.
#[derive(Default)]
struct Answer {
    link: Option<(String, Secret)>,
    wrong: Option<String>,
    typed: Fields,
}

pub(crate) async fn list(State(site): State<Site>, visitor: Visitor) -> Shown {
    page(&site, &visitor, Answer::default()).await
}

async fn page(site: &Site, visitor: &Visitor, answer: Answer) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let asked = page_of(visitor).map_err(&refused)?;
    let users = service.list_users(who, asked).await.map_err(&refused)?;
    let known = applications(site, visitor).await.map_err(&refused)?;
    let all = who.scope() == postrider_core::tenant::Scope::Root;
    let next = next_of(&users, "/users", &[]);
    let now = service.now();
    let reach = |user: &User| match user.application {
        None => "everything".to_owned(),
        Some(id) => {
            let named = known.iter().find(|(known, _)| *known == id);
            named.map_or_else(|| id.to_string(), |(_, name)| name.clone())
        }
    };
    let row = |user: User| Row {
        id: user.id.to_string(),
        reach: reach(&user),
        own: who.user().is_some_and(|own| own.id == user.id),
        active: user.disabled_at.is_none(),
        chose: user.password.map(|chosen| When::new(chosen.since, now)),
        made: When::new(user.created_at, now),
        name: user.name,
        role: user.role,
    };
    let more = if next.is_some() { " or more" } else { "" };
    let sentence = match users.rows.len() {
        0 => "Nobody has a name here yet: who comes in, comes with a key.".to_owned(),
        some => format!(
            "{}{more} with a name.",
            counted(some as u64, "person", "people")
        ),
    };
    let status = match &answer.wrong {
        Some(_) => http::StatusCode::BAD_REQUEST,
        None => http::StatusCode::OK,
    };
    let typed = answer.typed;
    let page = Users {
        frame: Frame::of(visitor, "Users").behind([Link::new("/", "Overview")]),
        sentence,
        rows: users.rows.into_iter().map(row).collect(),
        next,
        role: role(&typed).unwrap_or(Role::Developer),
        roles: Role::ALL,
        applications: known
            .into_iter()
            .map(|(id, name)| Choice {
                chosen: typed.get("application") == Some(id.to_string().as_str()),
                id: id.to_string(),
                name,
            })
            .collect(),
        all,
        name: typed.text("name"),
        link: answer
            .link
            .map(|(name, link)| (name, link.expose().to_owned())),
        guessed: site.pages.options.public_url.is_none(),
        wrong: answer.wrong,
    };
    frame::show_as(status, &page.frame, &page)
}

type Known = Vec<(postrider_core::Id<postrider_core::id::Application>, String)>;

/// The applications that the visitor can confine somebody to.
async fn applications(site: &Site, visitor: &Visitor) -> Result<Known, Refusal> {
    let (service, who) = (site.service(), &visitor.visit.caller);
    if let postrider_core::tenant::Scope::Application(own) = who.scope() {
        let application = service.application(who, own).await?;
        return Ok(vec![(own, application.name.clone())]);
    }
    let listed = service.list_applications(who, PageRequest::first(CHOICES));
    let rows = listed.await?.rows.into_iter();
    Ok(rows.map(|row| (row.id, row.name)).collect())
}

fn role(fields: &Fields) -> Option<Role> {
    fields.get("role").and_then(Role::read)
}

fn must_have_role(fields: &Fields) -> Result<Role, Refusal> {
    let rule = "must be owner, developer or viewer";
    role(fields).ok_or_else(|| Refusal::invalid("role", rule))
}

pub(crate) async fn create(State(site): State<Site>, posted: Posted) -> Shown {
    let Posted { visitor, fields } = posted;
    let who = &visitor.visit.caller;
    let application = match fields.get("application") {
        None => None,
        Some(text) => Some(read(&visitor, text)?),
    };
    let made = match must_have_role(&fields) {
        Ok(role) => {
            let name = fields.text("name");
            let new = NewUser {
                name,
                role,
                application,
            };
            site.service().create_user(who, new).await
        }
        Err(refusal) => Err(refusal),
    };
    let answer = match made {
        Ok(made) => Answer {
            link: Some((made.user.name, made.link.at(&visitor.base))),
            ..Answer::default()
        },
        Err(refusal) => Answer {
            wrong: Some(visitor.told_why(refusal)?),
            typed: fields,
            ..Answer::default()
        },
    };
    page(&site, &visitor, answer).await
}

/// The forms of each row.
pub(crate) async fn act(
    State(site): State<Site>,
    Path((id, act)): Path<(String, String)>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let id = read(&visitor, &id)?;
    let (service, who) = (site.service(), &visitor.visit.caller);
    let patch = match act.as_str() {
        "role" => match must_have_role(&fields) {
            Ok(role) => UserPatch {
                role: Some(role),
                active: None,
            },
            Err(refusal) => return wrong(&site, &visitor, &refusal).await,
        },
        "enable" | "disable" => UserPatch {
            role: None,
            active: Some(act == "enable"),
        },
        "link" => {
            let user = service.user(who, id).await.map_err(visitor.refused())?;
            return match service.user_link(who, id).await {
                Ok(made) => {
                    let link = Some((user.name, made.at(&visitor.base)));
                    let answer = Answer {
                        link,
                        ..Answer::default()
                    };
                    page(&site, &visitor, answer).await
                }
                Err(refusal) => wrong(&site, &visitor, &refusal).await,
            };
        }
        "delete" => {
            return match service.delete_user(who, id).await {
                Ok(()) => Ok(visitor.back_to("/users", "user-deleted")),
                Err(refusal) => wrong(&site, &visitor, &refusal).await,
            };
        }
        _ => return Err(Failure::not_found(site.face)),
    };
    match service.change_user(who, id, patch).await {
        Ok(_) => Ok(visitor.back_to("/users", "changed")),
        Err(refusal) => wrong(&site, &visitor, &refusal).await,
    }
}

async fn wrong(site: &Site, visitor: &Visitor, refusal: &Refusal) -> Shown {
    let answer = Answer {
        wrong: Some(sentence(refusal)),
        ..Answer::default()
    };
    page(site, visitor, answer).await
}
