//! Events that a product has put into the store's database itself, in the transaction of what they tell of: they become
//! events as if they were published here, with the same checks.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use postrider_core::{Id, id};
use postrider_store::outbox::{OutboxState, Submission};
use tokio::task::{self, JoinSet};
use tokio::time::Instant;

use crate::events::{NewEvent, Sent};
use crate::reading::{typed, well_formed};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service};

/// Tenants whose events are taken at once: one whose events take long holds up none of the others.
const TENANTS_MAX: usize = 16;
/// Taken at once of a tenant, and their bytes.
const TAKEN_MAX: u32 = 500;
const TAKEN_BYTES_MAX: usize = 1_024 * 1_024;
/// Tenants that rest because theirs cannot be taken; of more, the first to have come rests no longer.
const RESTING_MAX: usize = 1_000;
/// Between two looks: what is committed in between waits half of it, on average.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// While nothing can be taken, of a tenant or of anybody.
const STUCK_PAUSE: Duration = Duration::from_secs(1);
/// After a turn that broke off inside this process, which the next one may do too.
const BROKEN_PAUSE: Duration = Duration::from_secs(30);
/// Bytes of why an event was refused.
const WHY_BYTES_MAX: usize = 1_000;

/// What became of what was submitted.
#[derive(Default)]
struct Settled {
    taken: Vec<i64>,
    refused: Vec<(i64, String)>,
    /// Why one is left for later, if one is.
    left: Option<String>,
}

impl Service {
    /// Takes what products submit, again and again. Where nobody can submit anything, there may still be what a store
    /// brought along.
    pub async fn take_submissions(&self) {
        let mut turns = Turns::default();
        // Tasks of their own, which end with this: one that waits for the store has a place in its line, and somebody has to
        // take it when its turn comes.
        let mut taking = JoinSet::new();
        loop {
            let found = turns.find(self).await;
            let pause = match found {
                Ok(found)
                    if found.is_empty()
                        && taking.is_empty()
                        && turns.is_calm()
                        && !self.store().takes_submissions() =>
                {
                    return std::future::pending().await;
                }
                Ok(found) => {
                    for turn in found {
                        let tenant = turn.tenant;
                        let task = taking.spawn(take(self.clone(), turn));
                        turns.busy.insert(tenant, Some(task.id()));
                    }
                    LOOK_EVERY
                }
                Err(refusal) => {
                    turns.tell(None, Some(&refusal.to_string()));
                    STUCK_PAUSE
                }
            };
            let pause = tokio::time::sleep(pause);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    Some(took) = taking.join_next() => match took {
                        // One with more has its next turn at once, behind those of others.
                        Ok(took) => if turns.end(&took) { break },
                        Err(broken) => turns.broken(&broken),
                    },
                    () = &mut pause => break,
                }
            }
        }
    }

    /// What waits in the outbox, and what was refused there.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn outbox_state(&self) -> Result<OutboxState> {
        Ok(self.store().outbox_state().await?)
    }
}

/// Whose turn it is: of the tenants with something to take, one after the other.
#[derive(Default)]
struct Turns {
    /// Those whose events are being taken.
    busy: HashMap<Id<id::Tenant>, Option<task::Id>>,
    /// Those of whom something cannot be taken now, and until when they rest.
    resting: VecDeque<(Instant, Id<id::Tenant>)>,
    /// The last one that was found.
    last: Option<Id<id::Tenant>>,
    /// Behind which of their own the next turn begins, of those of whom something was left.
    behind: HashMap<Id<id::Tenant>, i64>,
    /// Of whom it was told that something is left; none is the store itself.
    told: HashSet<Option<Id<id::Tenant>>>,
}

/// A tenant's turn.
struct Turn {
    tenant: Id<id::Tenant>,
    /// What is left up to here is passed over.
    behind: i64,
}

/// How it ended.
struct Took {
    tenant: Id<id::Tenant>,
    /// Where its next one begins: it may have more. None where that is from the first one on, at the next look.
    next: Option<i64>,
    /// Why the last one that is left was.
    left: Option<String>,
    /// Something is left, and all behind it was taken.
    is_stuck: bool,
}

impl Turns {
    /// Those who have a turn now.
    async fn find(&mut self, service: &Service) -> Result<Vec<Turn>> {
        let found = self.look(service).await;
        if found.is_err() {
            // Those that the first of two questions found have no task.
            self.busy.retain(|_, task| task.is_some());
        }
        found
    }

    async fn look(&mut self, service: &Service) -> Result<Vec<Turn>> {
        let now = Instant::now();
        self.resting.retain(|(until, _)| *until > now);
        while self.resting.len() > RESTING_MAX {
            self.resting.pop_front();
        }
        let mut found = Vec::new();
        // Behind the last one, and then from the first one on.
        let afters = self.last.map(Some).into_iter().chain([None]);
        for after in afters {
            let free = TENANTS_MAX.saturating_sub(self.busy.len());
            if free == 0 {
                break;
            }
            let resting = self.resting.iter().map(|(_, tenant)| *tenant);
            let but = self.busy.keys().copied().chain(resting).collect();
            let free = u32::try_from(free).map_err(Refusal::internal)?;
            let some = service.store().submitters(after, but, free).await?;
            self.last = some.last().copied().or(self.last);
            self.busy.extend(some.iter().map(|tenant| (*tenant, None)));
            found.extend(some.into_iter().map(|tenant| Turn {
                tenant,
                behind: self.behind.get(&tenant).copied().unwrap_or(0),
            }));
        }
        self.tell(None, None);
        Ok(found)
    }

    /// True when it may have more.
    fn end(&mut self, took: &Took) -> bool {
        let tenant = took.tenant;
        self.busy.remove(&tenant);
        match took.next {
            Some(next) if next > 0 => drop(self.behind.insert(tenant, next)),
            _ => drop(self.behind.remove(&tenant)),
        }
        if took.is_stuck {
            self.resting
                .push_back((Instant::now() + STUCK_PAUSE, tenant));
        }
        if took.next.is_none() {
            let why = took.left.as_deref();
            let why = why.or(took.is_stuck.then_some("others behind it were taken"));
            self.tell(Some(tenant), why);
        }
        took.next.is_some()
    }

    /// A turn broke off inside this process: whose it was may have another, after a while.
    fn broken(&mut self, why: &task::JoinError) {
        tracing::error!(
            error = why as &dyn std::error::Error,
            "taking events of the outbox broke off; they are taken again"
        );
        let busy = self.busy.iter();
        let whose = busy.filter(|(_, task)| **task == Some(why.id()));
        for tenant in whose.map(|(tenant, _)| *tenant).collect::<Vec<_>>() {
            self.busy.remove(&tenant);
            self.behind.remove(&tenant);
            self.resting
                .push_back((Instant::now() + BROKEN_PAUSE, tenant));
        }
    }

    fn is_calm(&self) -> bool {
        self.resting.is_empty()
    }

    /// Tells why something of somebody is left, once and not with each look: it may wait for hours.
    fn tell(&mut self, of: Option<Id<id::Tenant>>, why: Option<&str>) {
        let Some(why) = why else {
            self.told.remove(&of);
            return;
        };
        if self.told.len() > RESTING_MAX {
            self.told.clear();
        }
        if self.told.insert(of) {
            let tenant = of.map(tracing::field::display);
            tracing::warn!(
                tenant.id = tenant,
                why,
                "an event of the outbox cannot be taken now; it waits there"
            );
        }
    }
}

/// Takes what waits of a tenant, as much as is taken at once. What cannot be taken now is left, and holds up nothing behind
/// it.
async fn take(service: Service, turn: Turn) -> Took {
    let took = take_some(&service, &turn).await;
    took.unwrap_or_else(|refusal| Took {
        tenant: turn.tenant,
        next: None,
        left: Some(refusal.to_string()),
        is_stuck: true,
    })
}

async fn take_some(service: &Service, turn: &Turn) -> Result<Took> {
    let tenant = turn.tenant;
    let store = service.store();
    let waiting = store
        .submissions(tenant, turn.behind, TAKEN_MAX, TAKEN_BYTES_MAX)
        .await?;
    let last = waiting.last().map(|last| last.number);
    let bytes: usize = waiting.iter().map(|waiting| waiting.event.len()).sum();
    // A look that finds less begins anew, because a transaction may have been committed late.
    let is_all = waiting.len() < TAKEN_MAX as usize && bytes < TAKEN_BYTES_MAX;
    let settled = publish(service, tenant, waiting).await;
    for (number, why) in &settled.refused {
        tracing::warn!(
            number,
            why,
            "an event of the outbox was refused; it stays there"
        );
    }
    if !settled.taken.is_empty() || !settled.refused.is_empty() {
        // Cut off before it is written, they are published again, under the same keys.
        let written = store.settle_submissions(settled.taken, settled.refused);
        written.await?;
    }
    // What was taken is not there any more, so only what is left has to be passed over.
    let next = match settled.left {
        Some(_) => last.unwrap_or(turn.behind),
        None => turn.behind,
    };
    Ok(Took {
        tenant,
        next: (!is_all).then_some(next),
        is_stuck: is_all && next > 0,
        left: settled.left,
    })
}

/// Publishes what is of one tenant, in its order.
async fn publish(
    service: &Service,
    tenant: Id<id::Tenant>,
    submissions: Vec<Submission>,
) -> Settled {
    if submissions.is_empty() {
        return Settled::default();
    }
    let events = submissions.iter().map(read);
    let who = Caller::of_database();
    let answers = match service.publish_many(&who, tenant, events).await {
        Ok(answers) => answers,
        // Its tenant was erased meanwhile: what is left of it must not stay.
        Err(refusal) if refusal.code == ErrorCode::NotFound => {
            let taken = submissions.iter().map(|one| one.number).collect();
            tracing::warn!(tenant.id = %tenant, count = submissions.len(), "events of the outbox were dropped: their tenant is deleted");
            return Settled {
                taken,
                ..Settled::default()
            };
        }
        Err(refusal) => {
            let mut all = Settled::default();
            for one in &submissions {
                all.note(one.number, Err(&refusal));
            }
            return all;
        }
    };
    let mut all = Settled::default();
    for (submission, answer) in submissions.iter().zip(&answers) {
        all.note(submission.number, answer.as_ref().map(drop));
    }
    all
}

fn read(submission: &Submission) -> Result<(NewEvent<'_>, Sent<'_>)> {
    let raw = submission.event.as_bytes();
    well_formed(raw)?;
    let mut event: NewEvent<'_> = typed(raw)?;
    // It was written with the row, so each try has the same.
    event
        .idempotency_key
        .get_or_insert_with(|| submission.key.clone());
    // When the product wrote it: how late it is taken is this server's matter.
    event.occurred_at.get_or_insert(submission.created_at);
    let sent = Sent {
        raw,
        whole: None,
        traceparent: None,
    };
    Ok((event, sent))
}

impl Settled {
    /// What may succeed later is left where it is.
    fn note(&mut self, number: i64, answer: std::result::Result<(), &Refusal>) {
        match answer {
            Ok(()) => self.taken.push(number),
            Err(refusal) => {
                let code = refusal.code.as_str();
                let field = refusal.field.as_deref().unwrap_or_default();
                let mut why = format!("{code}: {field} {}", refusal.detail);
                why.truncate(why.floor_char_boundary(WHY_BYTES_MAX));
                if refusal.code.status() >= 500 || refusal.code.status() == 429 {
                    self.left = Some(why);
                } else {
                    self.refused.push((number, why));
                }
            }
        }
    }
}
