//! How long what has ended is kept, and the round that forgets the rest.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postrider_core::{Id, Timestamp, id};
use postrider_engine::Clock;
use postrider_store::{EventFilter, Keep, PageRequest, PruneFrom, Pruned, Store, StoreError};

use crate::Service;

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Days that an application may keep what it has.
pub(crate) const DAYS_MAX: u32 = 3_650;
/// What is younger stays whatever the size is: somebody may be looking at it, or send it again.
const YOUNGEST: Duration = DAY;
/// The clock may go so much faster or slower than time does before it is not believed.
const CLOCK_TRUSTED: Duration = Duration::from_secs(60);
/// Between two pieces at least; otherwise as long as the piece took, so that a round is at most half of the writer's time.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// How long what has ended is kept. What waits is kept whatever its age.
#[derive(Debug, Clone)]
pub struct RetentionRule {
    /// Days that events, deliveries with their attempts, notices and tasks are kept; 0 is for ever.
    pub days: u32,
    /// Days that entries of the audit log are kept; 0 is for ever.
    pub audit_days: u32,
    /// Bytes above which the oldest go earlier, but nothing younger than a day, and nothing of applications with a time
    /// of their own.
    pub max_bytes: Option<u64>,
    /// Time between two rounds.
    pub every: Duration,
}

impl Default for RetentionRule {
    fn default() -> Self {
        Self {
            days: 90,
            audit_days: 365,
            max_bytes: None,
            every: Duration::from_secs(3_600),
        }
    }
}

impl RetentionRule {
    /// Until when all is kept, where some applications have days of their own ([`postrider_store::Retention::own_days`]).
    pub fn keep(&self, own: &[(Id<id::Application>, u32)], now: Timestamp) -> Keep {
        let own = own
            .iter()
            .map(|(application, days)| (*application, before(*days, now)));
        Keep {
            before: before(self.days, now),
            own: own.collect(),
            audit_before: before(self.audit_days, now),
        }
    }
}

fn before(days: u32, now: Timestamp) -> Timestamp {
    match days {
        // Nothing is older.
        0 => Timestamp::from_micros(i64::MIN),
        days => now.minus(DAY * days),
    }
}

/// How a round ended.
#[derive(Debug, Clone, Copy)]
pub struct RetentionRound {
    pub at: Timestamp,
    pub pruned: Pruned,
    /// Bytes that all that is stored takes.
    pub used_bytes: u64,
}

/// The last round.
#[derive(Debug, Default)]
pub(crate) struct Rounds(Mutex<Option<RetentionRound>>);

impl Service {
    /// How long things are kept, and how the last round ended, if there was one since the start.
    pub fn retention(&self) -> (&RetentionRule, Option<RetentionRound>) {
        let last = self.0.rounds.0.lock();
        let last = *last.unwrap_or_else(PoisonError::into_inner);
        (&self.0.options.retention, last)
    }

    /// Forgets what is old, again and again. The first round comes after the time between two: a clock that is wrong at
    /// the start is mostly right by then.
    pub async fn retain(&self) {
        let clock = self.0.engine.clock();
        // A round follows a round: with nothing in between they would never rest.
        let every = self.0.options.retention.every.max(PAUSE_MIN);
        let mut before = (clock.now(), clock.elapsed());
        loop {
            tokio::time::sleep(every).await;
            let is_even = is_even(clock, before);
            before = (clock.now(), clock.elapsed());
            if !is_even {
                tracing::warn!(
                    "the clock was set; nothing is judged by its age until the next round"
                );
                continue;
            }
            let rule = &self.0.options.retention;
            match forget_what_is_old(self.store(), clock, rule, RetentionPace::Polite).await {
                Ok(round) => self.tell(round),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "what is old could not be forgotten; the next round tries again"
                ),
            }
        }
    }

    fn tell(&self, round: RetentionRound) {
        let Pruned {
            events,
            deliveries,
            notices,
            tasks,
            audit,
            endpoints,
            damaged,
        } = round.pruned;
        if !round.pruned.is_nothing() {
            tracing::info!(
                events,
                deliveries,
                notices,
                tasks,
                audit,
                endpoints,
                "forgot what is old"
            );
        }
        if damaged > 0 {
            tracing::error!(
                damaged,
                "some of what is old is damaged, or belongs to what is, and stays; see postrider doctor"
            );
        }
        let max = self.0.options.retention.max_bytes;
        if let Some(max_bytes) = max.filter(|max| round.used_bytes > *max) {
            tracing::warn!(
                used_bytes = round.used_bytes,
                max_bytes,
                "what waits, is younger than a day, or has a time of its own takes more than retention.max_bytes; raise it, or have less to keep"
            );
        }
        let mut last = self
            .0
            .rounds
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(round);
    }
}

/// How fast a round goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionPace {
    /// Others write too.
    Polite,
    /// Nobody else is there.
    Alone,
}

/// One round.
///
/// # Errors
/// What the store answers; what was forgotten until then stays so.
pub async fn forget_what_is_old(
    store: &dyn Store,
    clock: &dyn Clock,
    rule: &RetentionRule,
    pace: RetentionPace,
) -> Result<RetentionRound, StoreError> {
    let at = clock.now();
    // One time for the whole round: what grows old meanwhile is the next one's.
    let keep = rule.keep(&store.own_days().await?, at);
    if pace == RetentionPace::Polite && !is_plausible(store, &keep).await? {
        // An idle server comes here each hour.
        tracing::info!(
            "by this clock all that is stored is old; nothing is forgotten before something new was accepted, or postrider prune says so"
        );
        return Ok(RetentionRound {
            at,
            pruned: Pruned::default(),
            used_bytes: store.used_bytes().await?,
        });
    }
    let mut pruned = Pruned::default();
    let mut from = Some(PruneFrom::default());
    while let Some(piece) = from {
        from = forget_piece(store, clock, pace, &keep, piece, &mut pruned).await?;
    }
    if let Some(max) = rule.max_bytes {
        let youngest = Keep {
            before: at.minus(YOUNGEST),
            // Who has a time of their own, has it whatever others store.
            own: keep.own,
            audit_before: Timestamp::from_micros(i64::MIN),
        };
        let mut from = Some(PruneFrom::default());
        // Asked before each piece, so that no more goes early than has to.
        while let Some(piece) = from
            && store.used_bytes().await? > max
        {
            from = forget_piece(store, clock, pace, &youngest, piece, &mut pruned).await?;
        }
    }
    Ok(RetentionRound {
        at,
        pruned,
        used_bytes: store.used_bytes().await?,
    })
}

/// Whether something is young by this clock. Otherwise it is more likely wrong than the server was idle for so long, and
/// nothing grows meanwhile.
async fn is_plausible(store: &dyn Store, keep: &Keep) -> Result<bool, StoreError> {
    let newest = store.list_events(EventFilter::default(), PageRequest::first(1));
    let page = newest.await?;
    Ok(match page.rows.first() {
        Some(newest) => newest.created_at >= keep.before,
        // There are some, which do not read.
        None => page.next.is_none(),
    })
}

async fn forget_piece(
    store: &dyn Store,
    clock: &dyn Clock,
    pace: RetentionPace,
    keep: &Keep,
    from: PruneFrom,
    pruned: &mut Pruned,
) -> Result<Option<PruneFrom>, StoreError> {
    let begun = clock.elapsed();
    let (gone, next) = store.prune(keep, from).await?;
    *pruned += gone;
    if pace == RetentionPace::Polite {
        let took = clock.elapsed().saturating_sub(begun);
        tokio::time::sleep(took.max(PAUSE_MIN)).await;
    }
    Ok(next)
}

/// Whether the wall clock went on as time did.
fn is_even(clock: &dyn Clock, (wall, elapsed): (Timestamp, Duration)) -> bool {
    let went_on = clock.elapsed().saturating_sub(elapsed);
    let expected = wall.plus(went_on);
    let shown = clock.now();
    shown.since(expected).max(expected.since(shown)) <= CLOCK_TRUSTED
}
