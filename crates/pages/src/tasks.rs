//! The operator's lists over all customers: the long work, and what somebody had to be told.

use askama::Template;
use axum::extract::State;
use postrider_core::{Id, id};
use postrider_service::{ErrorCode, LongTask, NoticeQuery};

use crate::Site;
use crate::deletion;
use crate::door::Visitor;
use crate::failure::Failure;
use crate::frame::{self, Frame, Link, Shown};
use crate::notifications;
use crate::replay;
use crate::shown::{When, next_of, page_of};
use crate::words::Standing;

#[derive(Template)]
#[template(path = "tasks.html")]
struct Tasks {
    frame: Frame,
    rows: Vec<Row>,
    next: Option<String>,
}

struct Row {
    href: String,
    what: &'static str,
    of: Option<Owner>,
    created: When,
    standing: Standing,
    progress: String,
}

/// Whose something is: with a page of theirs as long as they are there.
pub(crate) struct Owner {
    pub(crate) name: String,
    pub(crate) href: Option<String>,
}

impl Owner {
    pub(crate) async fn of(
        site: &Site,
        visitor: &Visitor,
        id: Id<id::Tenant>,
    ) -> Result<Self, Failure> {
        let found = site.service().tenant(&visitor.visit.caller, id).await;
        match found {
            Ok((tenant, _)) => Ok(Self {
                name: tenant.name.clone(),
                href: Some(visitor.href(format_args!("/tenants/{id}"))),
            }),
            Err(refusal) if refusal.code == ErrorCode::NotFound => Ok(Self {
                name: id.to_string(),
                href: None,
            }),
            Err(refusal) => Err(visitor.refused()(refusal)),
        }
    }
}

pub(crate) async fn list(State(site): State<Site>, visitor: Visitor) -> Shown {
    let refused = visitor.refused();
    let service = site.service();
    let asked = page_of(&visitor).map_err(&refused)?;
    let listed = service.list_tasks(&visitor.visit.caller, asked).await;
    let listed = listed.map_err(&refused)?;
    let now = service.now();
    let mut rows = Vec::new();
    for task in &listed.rows {
        let (of, row) = match task {
            LongTask::Replay(task) => (
                task.tenant,
                Row {
                    href: visitor.href(format_args!("/replays/{}", task.id)),
                    what: "Replay",
                    of: None,
                    created: When::new(task.created_at, now),
                    standing: replay::standing(&task.status),
                    progress: replay::progress(task),
                },
            ),
            LongTask::Deletion(task) => (
                task.tenant,
                Row {
                    href: visitor.href(format_args!("/deletions/{}", task.id)),
                    what: match task.tenant {
                        Some(_) => "Deletion of a customer",
                        None => "Deletion of an application",
                    },
                    of: None,
                    created: When::new(task.created_at, now),
                    standing: deletion::standing(&task.status),
                    progress: deletion::progress(task),
                },
            ),
        };
        let of = match of {
            Some(tenant) => Some(Owner::of(&site, &visitor, tenant).await?),
            None => None,
        };
        rows.push(Row { of, ..row });
    }
    let page = Tasks {
        frame: Frame::of(&visitor, "Tasks").behind([Link::new("/", "Overview")]),
        next: next_of(&listed, "/tasks", &[]),
        rows,
    };
    frame::show(&page.frame, &page)
}

#[derive(Template)]
#[template(path = "notices.html")]
struct Notices {
    frame: Frame,
    rows: Vec<NoticeRow>,
    next: Option<String>,
}

struct NoticeRow {
    told: notifications::Row,
    of: Owner,
    /// How its tenant wants to be told.
    ways: &'static str,
}

pub(crate) async fn notices(State(site): State<Site>, visitor: Visitor) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let asked = page_of(&visitor).map_err(&refused)?;
    let listed = service.list_all_notices(who, NoticeQuery::default(), asked);
    let listed = listed.await.map_err(&refused)?;
    let now = service.now();
    let mut rows = Vec::new();
    for notice in &listed.rows {
        rows.push(NoticeRow {
            told: notifications::row(&visitor, notice, now),
            of: Owner::of(&site, &visitor, notice.tenant).await?,
            ways: match (notice.in_app, notice.mail_due) {
                (true, true) => "on its page; a mail is due",
                (true, false) => "on its page",
                (false, true) => "a mail is due",
                (false, false) => "by mail, or to an endpoint",
            },
        });
    }
    let page = Notices {
        frame: Frame::of(&visitor, "Notices").behind([Link::new("/", "Overview")]),
        next: next_of(&listed, "/notices", &[]),
        rows,
    };
    frame::show(&page.frame, &page)
}
