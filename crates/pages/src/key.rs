//! An API key with the webhook that belongs to it.

use askama::Template;
use axum::extract::{Path, State};
use postrider_core::session::Holder;
use postrider_core::tenant::{Mode, Scope};
use postrider_core::{Id, Secret, id};
use postrider_service::{
    ErrorCode, KeyMade, KeyPatch, KeyRotation, KeyShown, NewKey, Refusal, Rotation,
};

use crate::Site;
use crate::deliveries::mode;
use crate::door::Visitor;
use crate::endpoint::tenant_of;
use crate::failure::{Failure, sentence};
use crate::fields::{OVERTAKEN, Posted};
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::{When, read};
use crate::tenant::crumbs_below;

#[derive(Template)]
#[template(path = "key.html")]
struct Key {
    frame: Frame,
    id: String,
    name: String,
    public_id: Option<String>,
    test: bool,
    disabled: bool,
    /// What it reaches, of a product's key; a customer's has a webhook instead.
    product: Option<&'static str>,
    /// The visitor may replace its text, turn it off, and delete it.
    manages: bool,
    /// It is whoever is there.
    own: bool,
    expires: Option<When>,
    /// Until when the text before opens too.
    previous: Option<When>,
    created: When,
    webhook: String,
    /// The one that is stored, by which the form knows whether somebody has changed it.
    stored: String,
    endpoint: Option<Link>,
    /// Shown once: the key itself, and what signs.
    text: Option<String>,
    secret: Option<String>,
    problem: Option<String>,
}

/// What an act leaves to be shown on the page.
#[derive(Default)]
pub(crate) struct Answer {
    text: Option<Secret>,
    secret: Option<Secret>,
    webhook: Option<String>,
    problem: Option<String>,
}

impl Answer {
    /// What is shown of a new key once.
    pub(crate) fn of(made: KeyMade) -> Self {
        Self {
            text: Some(made.text),
            secret: made.secret,
            ..Self::default()
        }
    }
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let id = read(&visitor, &id)?;
    page(&site, &visitor, id, Answer::default()).await
}

pub(crate) async fn page(
    site: &Site,
    visitor: &Visitor,
    id: Id<id::ApiKey>,
    answer: Answer,
) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let KeyShown { key, endpoint } = service.key(who, id).await.map_err(&refused)?;
    let now = service.now();
    let crumbs = match key.scope {
        Scope::Tenant(_, tenant) => crumbs_below(site, visitor, tenant).await,
        Scope::Root | Scope::Application(_) => vec![Link::new("/keys", "Keys")],
    };
    let (product, manages) = match key.scope {
        Scope::Root => (Some("It opens the whole server."), who.is_owner()),
        Scope::Application(_) => (
            Some("It publishes for one application, and manages it."),
            who.is_owner(),
        ),
        Scope::Tenant(..) => (None, !matches!(who.scope(), Scope::Tenant(..))),
    };
    let stored = endpoint.as_ref().map(|endpoint| endpoint.url.clone());
    let shown = |secret: &Secret| secret.expose().to_owned();
    let page = Key {
        frame: Frame::of(visitor, key.name.clone()).behind(crumbs),
        id: key.id.to_string(),
        public_id: key.public_id.clone(),
        test: key.mode == Mode::Test,
        disabled: key.disabled_at.is_some(),
        product,
        manages,
        own: matches!(visitor.visit.session.holder, Holder::Key(own) if own == key.id),
        expires: key.expires_at.map(|at| When::new(at, now)),
        previous: key
            .previous
            .as_ref()
            .filter(|before| before.until > now)
            .map(|before| When::new(before.until, now)),
        created: When::new(key.created_at, now),
        webhook: answer.webhook.or(stored.clone()).unwrap_or_default(),
        stored: stored.unwrap_or_default(),
        endpoint: endpoint.map(|endpoint| {
            let href = visitor.href(format_args!("/endpoints/{}", endpoint.id));
            Link::new(href, endpoint.url)
        }),
        text: answer.text.as_ref().map(shown),
        secret: answer.secret.as_ref().map(shown),
        problem: answer.problem,
        name: key.name,
    };
    frame::show(&page.frame, &page)
}

/// Whether the key's webhook is another one than its form has shown: somebody was sooner.
async fn has_other_webhook(
    site: &Site,
    visitor: &Visitor,
    id: Id<id::ApiKey>,
    shown: Option<&str>,
) -> Result<bool, Failure> {
    let Some(shown) = shown else {
        return Ok(false);
    };
    let found = site.service().key(&visitor.visit.caller, id).await;
    let stored = found.map_err(visitor.refused())?.endpoint;
    Ok(shown != stored.map_or_else(String::new, |endpoint| endpoint.url))
}

/// The forms of the page.
#[expect(
    clippy::too_many_lines,
    reason = "one arm for each of the page's buttons"
)]
pub(crate) async fn act(
    State(site): State<Site>,
    Path((id, act)): Path<(String, String)>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let id = read(&visitor, &id)?;
    let (service, who) = (site.service(), &visitor.visit.caller);
    let done: Result<Option<Secret>, Refusal> = match act.as_str() {
        "webhook" => {
            if has_other_webhook(&site, &visitor, id, fields.given("shown")).await? {
                let answer = Answer {
                    problem: Some(OVERTAKEN.to_owned()),
                    webhook: Some(fields.text("webhook")),
                    ..Answer::default()
                };
                return page(&site, &visitor, id, answer).await;
            }
            let patch = KeyPatch {
                webhook: Some(fields.get("webhook").map(str::to_owned)),
                ..KeyPatch::default()
            };
            let changed = service.change_key(who, id, patch).await;
            changed.map(|(_, secret)| secret)
        }
        "rotate" => {
            let usual = Rotation::default();
            let rotated = service.rotate_key_secret(who, id, &usual).await;
            rotated.map(|shown| Some(shown.secret))
        }
        "text" => {
            let rotation = KeyRotation {
                overlap: fields.get("overlap").map(str::to_owned),
                again: fields.get("again").is_some(),
            };
            return match service.rotate_key(who, id, &rotation).await {
                Ok(rotated) => page(&site, &visitor, id, Answer::of(rotated)).await,
                Err(refusal) => wrong(&site, &visitor, id, refusal).await,
            };
        }
        "delete" => {
            // Before it is gone: it says where one goes on.
            let shown = service.key(who, id).await.map_err(visitor.refused())?;
            return match service.delete_key(who, id).await {
                Ok(()) => Ok(visitor.back_to(after(&visitor, shown.key.scope), "key-deleted")),
                Err(refusal) => wrong(&site, &visitor, id, refusal).await,
            };
        }
        "enable" | "disable" => {
            let patch = KeyPatch {
                active: Some(act == "enable"),
                ..KeyPatch::default()
            };
            service.change_key(who, id, patch).await.map(|_| None)
        }
        _ => return Err(Failure::not_found(site.face)),
    };
    match done {
        Ok(None) => Ok(visitor.back_to(format_args!("/keys/{id}"), "changed")),
        Ok(secret) => {
            let answer = Answer {
                secret,
                ..Answer::default()
            };
            page(&site, &visitor, id, answer).await
        }
        Err(refusal) => {
            let answer = Answer {
                problem: Some(visitor.told_why(refusal)?),
                webhook: Some(fields.text("webhook")),
                ..Answer::default()
            };
            page(&site, &visitor, id, answer).await
        }
    }
}

async fn wrong(site: &Site, visitor: &Visitor, id: Id<id::ApiKey>, refusal: Refusal) -> Shown {
    let answer = Answer {
        problem: Some(visitor.told_why(refusal)?),
        ..Answer::default()
    };
    page(site, visitor, id, answer).await
}

/// Where somebody goes on when a key is gone.
fn after(visitor: &Visitor, scope: Scope) -> String {
    match scope {
        Scope::Root | Scope::Application(_) => "/keys".to_owned(),
        Scope::Tenant(_, tenant) => crate::endpoint::home_of(visitor, tenant),
    }
}

#[derive(Template)]
#[template(path = "key_form.html")]
struct Form {
    frame: Frame,
    action: String,
    back: String,
    name: String,
    webhook: String,
    test: bool,
    wrong: Option<String>,
}

pub(crate) async fn new(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let tenant = tenant_of(&visitor, &id)?;
    form(&site, &visitor, tenant, None).await
}

async fn form(
    site: &Site,
    visitor: &Visitor,
    tenant: Id<id::Tenant>,
    typed: Option<(NewKey, String)>,
) -> Shown {
    let who = &visitor.visit.caller;
    let found = site.service().tenant(who, tenant).await;
    found.map_err(visitor.refused())?;
    let (new, wrong) = typed.unzip();
    let test = new.as_ref().is_some_and(|new| new.mode == Some(Mode::Test));
    let status = match wrong {
        Some(_) => http::StatusCode::BAD_REQUEST,
        None => http::StatusCode::OK,
    };
    let page = Form {
        frame: Frame::of(visitor, "New key").behind(crumbs_below(site, visitor, tenant).await),
        action: visitor.href(format_args!("/tenants/{tenant}/keys")),
        back: visitor.href(crate::endpoint::home_of(visitor, tenant)),
        name: new.as_ref().map(|new| new.name.clone()).unwrap_or_default(),
        webhook: new.and_then(|new| new.webhook).unwrap_or_default(),
        test,
        wrong,
    };
    frame::show_as(status, &page.frame, &page)
}

pub(crate) async fn create(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let tenant = tenant_of(&visitor, &id)?;
    let command = |mode| NewKey {
        name: fields.text("name"),
        tenant: Some(tenant),
        mode,
        webhook: fields.get("webhook").map(str::to_owned),
        ..NewKey::default()
    };
    let who = &visitor.visit.caller;
    let asked = mode(fields.get("mode"));
    let made = match &asked {
        Ok(mode) => site.service().create_key(who, command(*mode)).await,
        // Another one, since what was asked is looked at once more below.
        Err(refusal) => Err(Refusal::invalid("mode", refusal.detail.clone())),
    };
    match made {
        Ok(made) => {
            let id = made.shown.key.id;
            page(&site, &visitor, id, Answer::of(made)).await
        }
        Err(refusal)
            if matches!(
                refusal.code,
                ErrorCode::NotFound | ErrorCode::ScopeInsufficient
            ) =>
        {
            Err(Failure::Refused(site.face, refusal))
        }
        Err(refusal) => {
            let typed = command(asked.ok().flatten());
            form(&site, &visitor, tenant, Some((typed, sentence(&refusal)))).await
        }
    }
}
