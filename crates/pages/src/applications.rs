//! An application: its tenants, its event types, its profile.

use askama::Template;
use axum::extract::{Path, State};

use crate::Site;
use crate::catalogue::{TypeRow, Types};
use crate::door::Visitor;
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::{When, next_of, page_of, read};
use crate::words::counted;

#[derive(Template)]
#[template(path = "application.html")]
struct Application {
    frame: Frame,
    id: String,
    name: String,
    profile: String,
    summary: String,
    sentence: String,
    tenants: Vec<TenantRow>,
    next: Option<String>,
    types: Vec<TypeRow>,
    more_types: usize,
}

struct TenantRow {
    link: Link,
    external_id: String,
    created: When,
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let id = read(&visitor, &id)?;
    let now = service.now();
    let application = service.application(who, id).await.map_err(&refused)?;
    let page = page_of(&visitor).map_err(&refused)?;
    let (tenants, profile) = service
        .list_tenants(who, id, false, page)
        .await
        .map_err(&refused)?;
    let types = Types::found(service, who, id, "").await.map_err(&refused)?;
    let next = next_of(&tenants, &format!("/applications/{id}"), &[]);
    let shown = tenants.rows.len() as u64;
    let more = if next.is_some() { " or more" } else { "" };
    let page = Application {
        frame: Frame::of(&visitor, application.name.clone()).behind([Link::new("/", "Overview")]),
        id: id.to_string(),
        name: application.name.clone(),
        profile: profile.name.clone(),
        summary: profile.summary.clone(),
        sentence: format!(
            "{}{more}, delivered to as {} documents it.",
            counted(shown, "customer", "customers"),
            profile.name
        ),
        tenants: tenants
            .rows
            .into_iter()
            .map(|tenant| TenantRow {
                link: Link::new(format!("/tenants/{}", tenant.id), tenant.name),
                external_id: tenant.external_id.unwrap_or_default(),
                created: When::new(tenant.created_at, now),
            })
            .collect(),
        next,
        more_types: types.more(),
        types: types.rows(),
    };
    frame::show(&page.frame, &page)
}
