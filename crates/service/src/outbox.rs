//! Events that a product has put into the store's database itself, in the transaction of what they tell of: they become
//! events as if they were published here, with the same checks.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use postrider_core::{Id, id};
use postrider_store::outbox::{OutboxState, Submission};

use crate::events::{NewEvent, Sent};
use crate::reading::{typed, well_formed};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service};

/// Taken at once, and their bytes.
const TAKEN_MAX: u32 = 500;
const TAKEN_BYTES_MAX: usize = 8 * 1_024 * 1_024;
/// Between two looks: what is committed in between waits half of it, on average.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// While nothing can be taken.
const STUCK_PAUSE: Duration = Duration::from_secs(1);
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
        let mut is_well = true;
        loop {
            let pass = take_all(self).await;
            let why = match &pass {
                Ok(pass) => pass.left.as_deref().map(ToOwned::to_owned),
                Err(refusal) => Some(refusal.to_string()),
            };
            // Told once and not with each look: it may wait for hours.
            if let Some(why) = &why
                && is_well
            {
                tracing::warn!(
                    why,
                    "an event of the outbox cannot be taken now; it waits there"
                );
            }
            is_well = why.is_none();
            if is_well && !self.store().takes_submissions() {
                return std::future::pending().await;
            }
            let is_stuck = !is_well && pass.map_or(true, |pass| pass.settled == 0);
            tokio::time::sleep(if is_stuck { STUCK_PAUSE } else { LOOK_EVERY }).await;
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

/// How a pass, or a piece of it, ended.
#[derive(Default)]
struct Pass {
    settled: usize,
    /// Why the last one that is left was.
    left: Option<String>,
}

/// Goes once through what waits. What cannot be taken now is left, and holds up nothing behind it. It ends with what is
/// less than all at once: the next look begins anew, because a transaction may have been committed late.
async fn take_all(service: &Service) -> Result<Pass> {
    let mut pass = Pass::default();
    let mut after = 0;
    loop {
        let store = service.store();
        let waiting = store.submissions(after, TAKEN_MAX, TAKEN_BYTES_MAX).await?;
        let Some(last) = waiting.last().map(|last| last.number) else {
            return Ok(pass);
        };
        let bytes: usize = waiting.iter().map(|waiting| waiting.event.len()).sum();
        let is_all = waiting.len() < TAKEN_MAX as usize && bytes < TAKEN_BYTES_MAX;
        let taken = take(service, waiting).await?;
        pass.settled += taken.settled;
        // What was taken is not there any more, so only what is left has to be passed over.
        if taken.left.is_some() {
            pass.left = taken.left;
            after = last;
        }
        if is_all {
            return Ok(pass);
        }
    }
}

/// Makes events of what waits.
async fn take(service: &Service, waiting: Vec<Submission>) -> Result<Pass> {
    let mut of_tenants: HashMap<Id<id::Tenant>, Vec<Submission>> = HashMap::new();
    for submission in waiting {
        let of_tenant = of_tenants.entry(submission.tenant).or_default();
        of_tenant.push(submission);
    }
    let published = of_tenants
        .into_iter()
        .map(|(tenant, submissions)| publish(service, tenant, submissions));
    let mut all = Settled::default();
    for settled in join_all(published).await {
        all.taken.extend(settled.taken);
        all.refused.extend(settled.refused);
        all.left = settled.left.or(all.left);
    }
    for (number, why) in &all.refused {
        tracing::warn!(
            number,
            why,
            "an event of the outbox was refused; it stays there"
        );
    }
    let pass = Pass {
        settled: all.taken.len() + all.refused.len(),
        left: all.left,
    };
    if pass.settled > 0 {
        // Cut off before it is written, they are published again, under the same keys.
        let settled = service.store().settle_submissions(all.taken, all.refused);
        settled.await?;
    }
    Ok(pass)
}

/// Publishes what is of one tenant, in its order.
async fn publish(
    service: &Service,
    tenant: Id<id::Tenant>,
    submissions: Vec<Submission>,
) -> Settled {
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
