//! What a tenant can get: its event types, with an example of each.

use askama::Template;
use axum::extract::{Path, State};

use crate::Site;
use crate::applications::{TYPES_SHOWN, TypeRow, type_row};
use crate::door::Visitor;
use crate::endpoint::tenant_of;
use crate::frame::{self, Frame, Shown};
use crate::tenant::crumbs_below;
use crate::words::counted;

#[derive(Template)]
#[template(path = "catalogue.html")]
struct Catalogue {
    frame: Frame,
    sentence: String,
    types: Vec<TypeRow>,
    more: usize,
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let tenant = tenant_of(&visitor, &id)?;
    let (found, _) = service.tenant(who, tenant).await.map_err(&refused)?;
    let types = service.list_event_types(who, found.application).await;
    let types = types.map_err(&refused)?;
    let count = types.len();
    let page = Catalogue {
        frame: Frame::of(&visitor, "Event types")
            .behind(crumbs_below(&site, &visitor, tenant).await),
        sentence: match count {
            0 => "None is described; any type can be sent.".to_owned(),
            some => format!(
                "{} described.",
                counted(some as u64, "type is", "types are")
            ),
        },
        more: count.saturating_sub(TYPES_SHOWN),
        types: types.into_iter().take(TYPES_SHOWN).map(type_row).collect(),
    };
    frame::show(&page.frame, &page)
}
