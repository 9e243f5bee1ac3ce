//! Making an application and its customers, and an application's settings.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use postrider_core::tenant::{Application, Scope};
use postrider_core::{Id, id};
use postrider_service::{ApplicationPatch, NewApplication, NewTenant, Refusal};
use serde_json::{Map, Value, json};

use crate::Site;
use crate::deletion::deletes_applications;
use crate::door::Visitor;
use crate::failure::Failure;
use crate::fields::{Fields, OVERTAKEN, Posted, is_overtaken, seen};
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::read;

#[derive(Template)]
#[template(path = "application_form.html")]
struct NewForm {
    frame: Frame,
    name: String,
    profiles: Vec<Choice>,
    wrong: Option<String>,
}

struct Choice {
    name: String,
    summary: String,
    chosen: bool,
}

/// What a form is when it is shown again.
fn status_of(wrong: Option<&String>) -> StatusCode {
    match wrong {
        Some(_) => StatusCode::BAD_REQUEST,
        None => StatusCode::OK,
    }
}

pub(crate) async fn new(State(site): State<Site>, visitor: Visitor) -> Shown {
    new_form(&site, &visitor, &Fields::default(), None)
}

fn new_form(site: &Site, visitor: &Visitor, typed: &Fields, wrong: Option<String>) -> Shown {
    let profiles = site.service().profiles();
    let chosen = typed.get("profile").unwrap_or("standard");
    let choice = |name: String| Choice {
        summary: profiles
            .current(&name)
            .map(|current| current.profile.summary.clone())
            .unwrap_or_default(),
        chosen: name == chosen,
        name,
    };
    let page = NewForm {
        frame: Frame::of(visitor, "New application").behind([Link::new("/", "Overview")]),
        name: typed.text("name"),
        profiles: profiles.names().into_iter().map(choice).collect(),
        wrong,
    };
    frame::show_as(status_of(page.wrong.as_ref()), &page.frame, &page)
}

pub(crate) async fn create(State(site): State<Site>, posted: Posted) -> Shown {
    let Posted { visitor, fields } = posted;
    let new = NewApplication {
        name: fields.text("name"),
        profile: fields.text("profile"),
        settings: None,
    };
    let who = &visitor.visit.caller;
    match site.service().create_application(who, new).await {
        Ok(made) => Ok(visitor.back_to(format_args!("/applications/{}", made.id), "application")),
        Err(refusal) => {
            let wrong = visitor.told_why(refusal)?;
            new_form(&site, &visitor, &fields, Some(wrong))
        }
    }
}

#[derive(Template)]
#[template(path = "tenant_form.html")]
struct TenantForm {
    frame: Frame,
    application: String,
    name: String,
    external_id: String,
    wrong: Option<String>,
}

pub(crate) async fn new_tenant(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let id = read(&visitor, &id)?;
    tenant_form(&site, &visitor, id, &Fields::default(), None).await
}

async fn tenant_form(
    site: &Site,
    visitor: &Visitor,
    id: Id<id::Application>,
    typed: &Fields,
    wrong: Option<String>,
) -> Shown {
    let application = found(site, visitor, id).await?;
    let page = TenantForm {
        frame: Frame::of(visitor, "New customer").behind(crumbs(&application)),
        application: id.to_string(),
        name: typed.text("name"),
        external_id: typed.text("external_id"),
        wrong,
    };
    frame::show_as(status_of(page.wrong.as_ref()), &page.frame, &page)
}

pub(crate) async fn create_tenant(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Shown {
    let Posted { visitor, fields } = posted;
    let id = read(&visitor, &id)?;
    let new = NewTenant {
        name: fields.text("name"),
        external_id: fields.get("external_id").map(str::to_owned),
        ..NewTenant::default()
    };
    let who = &visitor.visit.caller;
    match site.service().create_tenant(who, id, new).await {
        Ok(made) => Ok(visitor.back_to(format_args!("/tenants/{}", made.tenant.id), "customer")),
        Err(refusal) => {
            let wrong = visitor.told_why(refusal)?;
            tenant_form(&site, &visitor, id, &fields, Some(wrong)).await
        }
    }
}

#[derive(Template)]
#[template(path = "application_settings.html")]
struct Settings {
    frame: Frame,
    id: String,
    values: Values,
    /// What only the operator changes, and of that what only an owner decides.
    root: bool,
    forgets: bool,
    deletes: bool,
    wrong: Option<String>,
}

/// What the form holds, or the application has.
struct Values {
    name: String,
    validate: String,
    retention_days: String,
    traceparent: bool,
    brand_name: String,
    logo: String,
    accent: String,
    seen: String,
}

impl Values {
    fn of(application: &Application) -> Self {
        let settings = &application.settings;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let validate = json!(settings.validate);
        Self {
            name: application.name.clone(),
            validate: validate.as_str().unwrap_or_default().to_owned(),
            retention_days: settings
                .retention_days
                .map(|days| days.to_string())
                .unwrap_or_default(),
            traceparent: settings.traceparent,
            brand_name: text(&settings.branding.name),
            logo: text(&settings.branding.logo),
            accent: text(&settings.branding.accent),
            seen: seen(application.updated_at),
        }
    }

    fn typed(fields: &Fields) -> Self {
        Self {
            name: fields.text("name"),
            validate: fields.text("validate"),
            retention_days: fields.text("retention_days"),
            traceparent: fields.get("traceparent").is_some(),
            brand_name: fields.text("brand_name"),
            logo: fields.text("logo"),
            accent: fields.text("accent"),
            seen: fields.text("seen"),
        }
    }

    /// What changes; what only the operator changes is left out for everybody else.
    fn patch(&self, root: bool, forgets: bool) -> Result<ApplicationPatch, Refusal> {
        let text = |text: &str| match text {
            "" => Value::Null,
            text => text.into(),
        };
        let settings = json!({
            "validate": text(&self.validate),
            "traceparent": self.traceparent,
            "branding": {
                "name": text(&self.brand_name),
                "logo": text(&self.logo),
                "accent": text(&self.accent),
            },
        });
        let mut settings = match settings {
            Value::Object(settings) => settings,
            _ => Map::new(),
        };
        if forgets {
            let days = match self.retention_days.as_str() {
                "" => Value::Null,
                text => text.parse::<u32>().map(Value::from).map_err(|_| {
                    Refusal::invalid("retentionDays", "must be a whole number of days")
                })?,
            };
            settings.insert("retentionDays".to_owned(), days);
        }
        Ok(ApplicationPatch {
            name: root.then(|| self.name.clone()),
            profile: None,
            settings: Some(settings),
        })
    }
}

pub(crate) async fn settings(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let id = read(&visitor, &id)?;
    let application = found(&site, &visitor, id).await?;
    let values = Values::of(&application);
    settings_form(&visitor, &application, values, None)
}

fn settings_form(
    visitor: &Visitor,
    application: &Application,
    values: Values,
    wrong: Option<String>,
) -> Shown {
    let page = Settings {
        frame: Frame::of(visitor, "Settings").behind(crumbs(application)),
        id: application.id.to_string(),
        root: visitor.visit.caller.scope() == Scope::Root,
        forgets: forgets(visitor),
        deletes: deletes_applications(visitor),
        values,
        wrong,
    };
    frame::show_as(status_of(page.wrong.as_ref()), &page.frame, &page)
}

pub(crate) async fn change_settings(
    State(site): State<Site>,
    Path(id): Path<String>,
    posted: Posted,
) -> Result<Response, Failure> {
    let Posted { visitor, fields } = posted;
    let id = read(&visitor, &id)?;
    let (service, who) = (site.service(), &visitor.visit.caller);
    let mut values = Values::typed(&fields);
    let application = found(&site, &visitor, id).await?;
    if is_overtaken(&fields, application.updated_at) {
        values.seen = seen(application.updated_at);
        return settings_form(&visitor, &application, values, Some(OVERTAKEN.to_owned()));
    }
    let changed = match values.patch(who.scope() == Scope::Root, forgets(&visitor)) {
        Ok(patch) => service.change_application(who, id, patch).await.map(drop),
        Err(refusal) => Err(refusal),
    };
    match changed {
        Ok(()) => Ok(visitor.back_to(format_args!("/applications/{id}/settings"), "changed")),
        Err(refusal) => {
            let wrong = visitor.told_why(refusal)?;
            settings_form(&visitor, &application, values, Some(wrong))
        }
    }
}

/// Whether the visitor says how long what has ended is kept.
fn forgets(visitor: &Visitor) -> bool {
    let who = &visitor.visit.caller;
    who.scope() == Scope::Root && who.is_owner()
}

async fn found(
    site: &Site,
    visitor: &Visitor,
    id: Id<id::Application>,
) -> Result<std::sync::Arc<Application>, Failure> {
    let found = site.service().application(&visitor.visit.caller, id).await;
    found.map_err(visitor.refused())
}

fn crumbs(application: &Application) -> [Link; 2] {
    let href = format!("/applications/{}", application.id);
    [
        Link::new("/", "Overview"),
        Link::new(href, application.name.clone()),
    ]
}
