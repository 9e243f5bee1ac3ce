//! Replays: many deliveries again, by filter, or what an endpoint missed, as a task that shows its progress and
//! survives restarts.

mod running;

use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{
    DeliveryFilter, MissedQuery, Page, PageRequest, Rule, StatePattern, StoreError, Task,
    TaskFilter, TaskKind, TaskState,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::deliveries::read_state;
use crate::endpoints;
use crate::reading::{bounded_page, must_be_range};
use crate::refusal::{Refusal, Result};
use crate::tasks::{TaskStatus, when_written};
use crate::{Caller, Service};

pub(crate) use running::{Replays, resume};

/// Begins the stored place of a task that goes from the oldest to the newest.
const FORWARD: char = '+';
/// Events that a catch-up looks at at once.
const EVENTS_LOOKED_AT: u32 = 200;

/// What to replay. Without a status: what failed. It is also how the store keeps it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReplay {
    pub endpoint: Option<Id<id::Endpoint>>,
    pub event: Option<Id<id::Event>>,
    pub r#type: Option<String>,
    pub mode: Option<Mode>,
    pub status: Option<String>,
    /// Instead: what the endpoint has no delivery of, because it was disabled or not there when the event came.
    #[serde(default)]
    pub missed: bool,
    #[serde(serialize_with = "exactly")]
    pub since: Option<Timestamp>,
    #[serde(serialize_with = "exactly")]
    pub until: Option<Timestamp>,
}

/// Times are shown in milliseconds; what is stored has to be what was asked for.
fn exactly<S: serde::Serializer>(
    at: &Option<Timestamp>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    let exact = at.map(|at| {
        let micros = at.as_micros().rem_euclid(1_000);
        at.to_string().replace('Z', &format!("{micros:03}Z"))
    });
    exact.serialize(serializer)
}

/// How a replay stands.
#[derive(Debug)]
pub struct Replay {
    pub id: Id<id::Task>,
    pub tenant: Option<Id<id::Tenant>>,
    pub status: TaskStatus,
    /// How many there are to send; none while they are counted.
    pub total: Option<u64>,
    /// Deliveries sent so far.
    pub done: u64,
    /// Deliveries that could not be: waiting already, their endpoint is disabled or gone, or the
    /// profile does not send again what ended as they did.
    pub skipped: u64,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

impl From<Task> for Replay {
    fn from(task: Task) -> Self {
        Self {
            id: task.id,
            tenant: task.tenant,
            status: task.state.into(),
            total: task.total,
            done: task.done,
            skipped: task.skipped,
            created_at: task.created_at,
            finished_at: task.finished_at,
        }
    }
}

impl Service {
    /// Begins a replay.
    ///
    /// # Errors
    /// Of a filter that cannot be, `endpoint_disabled`, `replays_max`, `not_found`, or what the store answers.
    pub async fn create_replay(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        new: NewReplay,
    ) -> Result<Replay> {
        who.must_change()?;
        let tenant = who.tenant(self, tenant).await?;
        let mut new = new;
        new.mode = who.shown(new.mode)?;
        let now = self.now();
        let mut task = Task {
            id: self.store().ids().next(now),
            kind: TaskKind::Replay,
            application: tenant.application,
            tenant: Some(tenant.id),
            request: String::new(),
            state: TaskState::Running,
            total: None,
            done: 0,
            skipped: 0,
            cursor: None,
            created_at: now,
            finished_at: None,
        };
        // For its mistakes: now somebody is there to read them.
        filter(&task, &new)?;
        if let Some(missed) = missed(&task, &new)? {
            let endpoint = missed.endpoint.to_string();
            let (endpoint, _) = endpoints::found(self, who, &endpoint).await?;
            if endpoint.tenant != tenant.id {
                return Err(Refusal::not_found("endpoint"));
            }
            if new.mode.is_some_and(|mode| mode != endpoint.mode) {
                return Err(Refusal::invalid("mode", "is not the endpoint's"));
            }
            if !endpoint.health.is_enabled() {
                return Err(StoreError::conflict(Rule::EndpointDisabled).into());
            }
            // Whoever may not touch its mode may not see this either.
            new.mode = Some(endpoint.mode);
        }
        task.request = serde_json::to_string(&new).map_err(Refusal::internal)?;
        // Before it is written: one too many leaves nothing behind.
        let place = self.0.replays.place(tenant.id)?;
        let claim = self.0.started.claim(task.id);
        let claim = claim.ok_or_else(|| Refusal::internal("a new task runs already"))?;
        // Before it is written, so that a deletion which is written behind it finds it.
        claim.replays(task.application, tenant.id);
        let (starting, first) = (self.clone(), task.clone());
        self.to_the_end(async move {
            let put = starting.store().put_task(first.clone()).await;
            match &put {
                Ok(()) => running::start(&starting, first, place, claim),
                // Left alone it would begin at the next start.
                Err(StoreError::OutcomeUnknown { .. }) => {
                    when_written(&starting, first.id, |service| {
                        running::start(service, first, place, claim);
                    });
                }
                Err(_) => {}
            }
            Ok(put?)
        })
        .await?;
        Ok(task.into())
    }

    /// # Errors
    /// `not_found`, also where it is another's.
    pub async fn replay(&self, who: &Caller, id: Id<id::Task>) -> Result<Replay> {
        Ok(found(self, who, id).await?.into())
    }

    /// A tenant's replays, the newest first.
    ///
    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn list_replays(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        page: PageRequest,
    ) -> Result<Page<Replay>> {
        let tenant = who.tenant(self, tenant).await?;
        let filter = TaskFilter {
            tenant: Some(tenant.id),
            kind: Some(TaskKind::Replay),
            ..TaskFilter::default()
        };
        let page = self.store().list_tasks(filter, bounded_page(page)).await?;
        let rows = page.rows.into_iter();
        let visible = rows.filter(|task| is_visible(who, task));
        Ok(Page {
            rows: visible.map(Replay::from).collect(),
            next: page.next,
        })
    }

    /// Stops a replay; what it has sent stays sent. One that has ended stays as it ended.
    ///
    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn cancel_replay(&self, who: &Caller, id: Id<id::Task>) -> Result<Replay> {
        who.must_change()?;
        let mut task = found(self, who, id).await?;
        if matches!(task.state, TaskState::Running | TaskState::Cancelled) {
            // First, so that it stops though whoever asked goes away; and again, should it not have.
            self.0.started.cancel(task.id);
        }
        if task.state == TaskState::Running {
            task.state = TaskState::Cancelled;
            task.finished_at = Some(self.now());
            // The store keeps the end, whatever the one who runs it writes afterwards.
            let (service, ended) = (self.clone(), task.clone());
            self.to_the_end(async move { Ok(service.store().put_task(ended).await?) })
                .await?;
        }
        Ok(self.store().task(task.id).await?.into())
    }
}

/// The endpoint that catches up, and what else is asked for; none for a replay of deliveries.
fn missed(task: &Task, body: &NewReplay) -> Result<Option<MissedQuery>> {
    if !body.missed {
        return Ok(None);
    }
    let rule = "cannot be together with missed";
    let given = [
        ("event", body.event.is_some()),
        ("type", body.r#type.is_some()),
        ("status", body.status.is_some()),
    ];
    if let Some((field, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
        return Err(Refusal::invalid(field, rule));
    }
    let rule = "is needed with missed: one endpoint catches up at a time";
    let endpoint = body
        .endpoint
        .ok_or_else(|| Refusal::invalid("endpoint", rule))?;
    must_be_range(body.since, body.until)?;
    let rule = "is needed with missed: the time from which on the endpoint catches up";
    body.since.ok_or_else(|| Refusal::invalid("since", rule))?;
    Ok(Some(MissedQuery {
        endpoint,
        after: None,
        since: body.since,
        until: end_of(task, body.until),
        rows: EVENTS_LOOKED_AT,
    }))
}

/// Only what was there when the replay began, so that it ends.
fn end_of(task: &Task, until: Option<Timestamp>) -> Timestamp {
    until.map_or(task.created_at, |until| until.min(task.created_at))
}

fn filter(task: &Task, body: &NewReplay) -> Result<DeliveryFilter> {
    must_be_range(body.since, body.until)?;
    Ok(DeliveryFilter {
        application: Some(task.application),
        tenant: task.tenant,
        endpoint: body.endpoint,
        event: body.event,
        event_type: body.r#type.clone(),
        mode: body.mode,
        state: Some(read_state(body.status.as_deref())?.unwrap_or(StatePattern::Failed)),
        since: body.since,
        until: Some(end_of(task, body.until)),
        answer: None,
        // As they would have gone; one that an earlier version began goes on as it was.
        oldest_first: task
            .cursor
            .as_deref()
            .is_none_or(|cursor| cursor.starts_with(FORWARD)),
    })
}

/// Whether the caller may see a replay; without a mode it is of both.
pub(crate) fn is_visible(who: &Caller, task: &Task) -> bool {
    let request: Option<NewReplay> = serde_json::from_str(&task.request).ok();
    let mode = request.and_then(|request| request.mode).unwrap_or_default();
    let owned = task
        .tenant
        .is_some_and(|tenant| who.may_see(task.application, tenant));
    task.kind == TaskKind::Replay && owned && who.may_touch(mode)
}

async fn found(service: &Service, who: &Caller, id: Id<id::Task>) -> Result<Task> {
    let task = service.store().task(id).await?;
    if is_visible(who, &task) {
        Ok(task)
    } else {
        Err(Refusal::not_found("replay"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_range_is_the_one_that_was_asked_for() {
        for micros in [
            1_774_017_075_123_456,
            1_774_017_075_000_001,
            1_774_017_075_000_000,
            7,
        ] {
            let asked = NewReplay {
                since: Some(Timestamp::from_micros(micros)),
                until: Some(Timestamp::from_micros(micros + 1)),
                ..NewReplay::default()
            };
            let stored = serde_json::to_string(&asked).unwrap();
            let read: NewReplay = serde_json::from_str(&stored).unwrap();
            assert_eq!(
                (read.since, read.until),
                (asked.since, asked.until),
                "{stored}"
            );
        }
    }
}
