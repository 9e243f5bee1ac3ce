//! Whoever waits for a commit: requests with their answers' way back, and attempts' records.

use postrider_core::{Id, id};
use postrider_store::{
    Batch, CatchUp, DueDelivery, FinishDelivery, NewEvent, Published, Recorded, Resend, StoreError,
    Written,
};
use tokio::sync::oneshot;

use super::queue::{FanOut, Place, Queue};
use super::{Committed, RecordEntry, RecordWrite};

/// The way back to whoever asked.
pub(super) type Reply<A> = oneshot::Sender<Result<A, StoreError>>;

/// What somebody waits for the answer of.
pub(super) enum Request {
    Finish(FinishDelivery, Reply<bool>),
    Publish(Box<NewEvent>, Reply<Published>),
    Resend(Resend, Reply<DueDelivery>),
    CatchUp(CatchUp, Reply<DueDelivery>),
}

/// A request in line.
pub(super) struct RequestEntry {
    pub(super) tenant: Id<id::Tenant>,
    pub(super) request: Request,
    /// Given back with the answer.
    pub(super) place: Place,
}

impl Request {
    /// Answers whoever cannot be served now.
    pub(super) fn refuse(self, why: StoreError) {
        // One who went away hears nothing.
        match self {
            Self::Finish(_, reply) => drop(reply.send(Err(why))),
            Self::Publish(_, reply) => drop(reply.send(Err(why))),
            Self::Resend(_, reply) | Self::CatchUp(_, reply) => drop(reply.send(Err(why))),
        }
    }
}

/// Who asked, while the store has what it was.
struct Asked<A> {
    tenant: Id<id::Tenant>,
    place: Place,
    reply: Reply<A>,
}

/// Those who wait for one commit, in the order of its [`Batch`].
pub(super) struct Waiting {
    records: Vec<RecordEntry>,
    finishes: Vec<(FinishDelivery, Asked<bool>)>,
    publishes: Vec<Asked<Published>>,
    resends: Vec<Asked<DueDelivery>>,
    catch_ups: Vec<Asked<DueDelivery>>,
}

/// What a commit left to do.
#[derive(Default)]
pub(super) struct Told {
    /// Records that the store did not take, each to be tried again; and why it did not take the first.
    pub(super) left: Vec<RecordEntry>,
    pub(super) why: Option<StoreError>,
    /// It may have made deliveries that nobody was told of.
    pub(super) look: bool,
}

/// Makes one batch of what waits.
pub(super) fn gather(records: Vec<RecordEntry>, requests: Vec<RequestEntry>) -> (Batch, Waiting) {
    let mut batch = Batch::default();
    // Before the requests: `tell` takes the answers to expiries before those to what callers finish.
    for entry in &records {
        match &entry.write {
            RecordWrite::Attempt(record) => batch.records.push(record.clone()),
            RecordWrite::Expiry(finish) => batch.finishes.push(*finish),
        }
    }
    let (mut finishes, mut publishes) = (Vec::new(), Vec::with_capacity(requests.len()));
    let (mut resends, mut catch_ups) = (Vec::new(), Vec::new());
    for entry in requests {
        let (tenant, place) = (entry.tenant, entry.place);
        match entry.request {
            Request::Finish(finish, reply) => {
                let asked = Asked {
                    tenant,
                    place,
                    reply,
                };
                batch.finishes.push(finish);
                finishes.push((finish, asked));
            }
            Request::Publish(event, reply) => {
                batch.publishes.push(*event);
                publishes.push(Asked {
                    tenant,
                    place,
                    reply,
                });
            }
            Request::Resend(resend, reply) => {
                batch.resends.push(resend);
                resends.push(Asked {
                    tenant,
                    place,
                    reply,
                });
            }
            Request::CatchUp(missed, reply) => {
                batch.catch_ups.push(missed);
                catch_ups.push(Asked {
                    tenant,
                    place,
                    reply,
                });
            }
        }
    }
    let waiting = Waiting {
        records,
        finishes,
        publishes,
        resends,
        catch_ups,
    };
    (batch, waiting)
}

impl Waiting {
    /// Puts those back in line whose event found no room: what one tenant makes much of is not done before others have had
    /// their turn.
    fn put_back(&mut self, rest: Vec<NewEvent>, queue: &mut Queue) {
        let answered = self.publishes.len().saturating_sub(rest.len());
        let asked = self.publishes.split_off(answered).into_iter();
        let entries = asked.zip(rest).map(|(asked, event)| RequestEntry {
            tenant: asked.tenant,
            request: Request::Publish(Box::new(event), asked.reply),
            place: asked.place,
        });
        queue.put_back(entries.collect());
    }

    /// Tells lanes first, and then whoever asked: what a publisher is told of is on its way already.
    pub(super) fn tell(
        mut self,
        written: Written,
        committed: &dyn Committed,
        queue: &mut Queue,
    ) -> Told {
        let Written { answers, rest } = written;
        if !rest.publishes.is_empty() {
            self.put_back(rest.publishes, queue);
        }
        let mut told = Told::default();
        // In the order in which all of it was written: a lane settles an attempt before it hears of a resend.
        let mut of_finishes = answers.finishes.into_iter();
        let records = std::mem::take(&mut self.records);
        told_records(
            records,
            answers.records,
            &mut of_finishes,
            committed,
            &mut told,
        );
        let mut finished = Vec::with_capacity(self.finishes.len());
        for (finish, asked) in self.finishes {
            let answer = next(&mut of_finishes);
            // Where nobody knows, its lane may have passed over it meanwhile, and it may wait all the same.
            told.look |= answer.as_ref().is_err_and(is_unknown);
            if matches!(answer, Ok(true) | Err(StoreError::OutcomeUnknown { .. })) {
                // Before what is due: a batch finishes before it resends.
                committed.ended(finish);
            }
            finished.push((asked, answer));
        }
        // In the order of their places: resends, then catch-ups, then publishes.
        let mut due = Vec::new();
        let mut resent = Vec::with_capacity(self.resends.len());
        let mut of_resends = answers.resends.into_iter();
        let mut of_catch_ups = answers.catch_ups.into_iter();
        let of_resends = self
            .resends
            .into_iter()
            .map(|asked| (asked, next(&mut of_resends)));
        let of_catch_ups = self
            .catch_ups
            .into_iter()
            .map(|asked| (asked, next(&mut of_catch_ups)));
        for (asked, answer) in of_resends.chain(of_catch_ups) {
            match &answer {
                Ok(delivery) => due.push(delivery.clone()),
                Err(error) => told.look |= is_unknown(error),
            }
            resent.push((asked, answer));
        }
        let mut published = Vec::with_capacity(self.publishes.len());
        let mut of_publishes = answers.publishes.into_iter();
        for asked in self.publishes {
            let mut answer = next(&mut of_publishes);
            match &mut answer {
                Ok(Published {
                    created,
                    rows,
                    work,
                    deliveries,
                    ..
                }) => {
                    // A repetition wrote nothing, and says nothing of the next event.
                    if *created {
                        let (makes, takes) = (*rows, *work);
                        queue.learn(asked.tenant, FanOut { makes, takes });
                    }
                    // Theirs are the lanes; whoever published is told how many.
                    due.append(deliveries);
                }
                Err(error) => told.look |= is_unknown(error),
            }
            published.push((asked, answer));
        }
        committed.due(due);
        send(finished);
        send(resent);
        send(published);
        told
    }
}

fn told_records(
    records: Vec<RecordEntry>,
    of_attempts: Vec<Result<Recorded, StoreError>>,
    of_finishes: &mut impl Iterator<Item = Result<bool, StoreError>>,
    committed: &dyn Committed,
    told: &mut Told,
) {
    let mut of_attempts = of_attempts.into_iter();
    for entry in records {
        let answer = match entry.write {
            RecordWrite::Attempt(_) => {
                next(&mut of_attempts).map(|recorded| (Some(recorded), recorded.ended))
            }
            RecordWrite::Expiry(_) => next(of_finishes).map(|ended| (None, ended)),
        };
        match answer {
            Ok((recorded, ended)) => committed.settled(entry.of, recorded, ended),
            // Tried again it would be refused again, and everything else would wait for it.
            Err(StoreError::NotFound { .. }) => committed.gone(entry.of),
            Err(error @ (StoreError::Conflict { .. } | StoreError::Corrupt { .. })) => {
                committed.set_aside(entry.of, &error);
            }
            Err(error) => {
                told.why.get_or_insert(error);
                told.left.push(entry);
            }
        }
    }
}

fn is_unknown(error: &StoreError) -> bool {
    matches!(error, StoreError::OutcomeUnknown { .. })
}

/// The next answer. A store that gives too few broke off, and has written nothing of the rest.
fn next<A>(answers: &mut impl Iterator<Item = Result<A, StoreError>>) -> Result<A, StoreError> {
    answers
        .next()
        .unwrap_or_else(|| Err(StoreError::aborted("the write broke off inside the server")))
}

fn send<A>(answers: Vec<(Asked<A>, Result<A, StoreError>)>) {
    for (asked, answer) in answers {
        // A publisher that went away gets no answer; its event is accepted all the same.
        drop(asked.reply.send(answer));
    }
}
