//! Events that a product has put into the store's database itself, in the transaction of what they tell of: they become
//! events as if they were published here, with the same checks.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use postrider_core::tenant::Mode;
use postrider_core::{Id, id};
use postrider_store::outbox::{OutboxState, Submission};

use crate::events::{NewEvent, Sent};
use crate::reading::{typed, well_formed};
use crate::refusal::{Refusal, Result};
use crate::{Caller, Service};

/// Taken at once, and their bytes.
const TAKEN_MAX: u32 = 500;
const TAKEN_BYTES_MAX: usize = 8 * 1_024 * 1_024;
/// Between two looks: what is committed in between waits half of it, on average.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// While the store cannot be read, or is full.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of why an event was refused.
const WHY_BYTES_MAX: usize = 1_000;

/// What became of what was submitted.
#[derive(Default)]
struct Settled {
    taken: Vec<i64>,
    refused: Vec<(i64, String)>,
}

impl Service {
    /// Takes what products submit, again and again; ends at once where nobody can.
    pub async fn take_submissions(&self) {
        if !self.store().takes_submissions() {
            return std::future::pending().await;
        }
        let mut is_well = true;
        loop {
            let pause = match take_all(self).await {
                Ok(()) => {
                    is_well = true;
                    LOOK_EVERY
                }
                Err(refusal) => {
                    if std::mem::replace(&mut is_well, false) {
                        tracing::warn!(
                            error = &refusal as &dyn std::error::Error,
                            "failed to take what is in the outbox; it waits there"
                        );
                    }
                    STORE_PAUSE
                }
            };
            tokio::time::sleep(pause).await;
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

/// Goes once through what waits. What there is no room for is left, and holds up nothing behind it.
async fn take_all(service: &Service) -> Result<()> {
    let (mut after, mut is_left) = (0, false);
    loop {
        let waiting = service.store();
        let waiting = waiting
            .submissions(after, TAKEN_MAX, TAKEN_BYTES_MAX)
            .await?;
        let Some(last) = waiting.last() else { break };
        after = last.number;
        let count = waiting.len();
        is_left |= take(service, waiting).await? < count;
    }
    if is_left {
        // Whoever publishes over HTTP is told to wait as well.
        return Err(Refusal::internal(
            "there is no room for all that is in the outbox",
        ));
    }
    Ok(())
}

/// Makes events of what waits; returns how many are settled.
async fn take(service: &Service, waiting: Vec<Submission>) -> Result<usize> {
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
    }
    for (number, why) in &all.refused {
        tracing::warn!(
            number,
            why,
            "an event of the outbox was refused; it stays there"
        );
    }
    let count = all.taken.len() + all.refused.len();
    if count > 0 {
        // Cut off before it is written, they are published again, under the same keys.
        let settled = service.store().settle_submissions(all.taken, all.refused);
        settled.await?;
    }
    Ok(count)
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
        // Its tenant is gone, or the store does not tell.
        Err(refusal) => {
            return submissions.iter().fold(Settled::default(), |mut all, one| {
                all.note(one.number, Err(&refusal));
                all
            });
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
    event
        .idempotency_key
        .get_or_insert_with(|| submission.key.clone());
    // What nobody says is live, as with a live key.
    event.mode.get_or_insert(Mode::Live);
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
            Err(refusal) if refusal.code.status() >= 500 || refusal.code.status() == 429 => {}
            Err(refusal) => {
                let code = refusal.code.as_str();
                let field = refusal.field.as_deref().unwrap_or_default();
                let mut why = format!("{code}: {field} {}", refusal.detail);
                why.truncate(why.floor_char_boundary(WHY_BYTES_MAX));
                self.refused.push((number, why));
            }
        }
    }
}
