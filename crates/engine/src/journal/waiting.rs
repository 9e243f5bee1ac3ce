//! Whoever waits for a commit: requests with their answers' way back, and attempts' records.

use postrider_core::{Id, id};
use postrider_store::{
    Answers, Batch, CatchUp, DueDelivery, FinishDelivery, NewEvent, Published, Resend, StoreError,
};
use tokio::sync::oneshot;

use super::queue::{Place, Queue};
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

/// Those who wait for one commit, in the order of its [`Batch`].
pub(super) struct Waiting {
    records: Vec<RecordEntry>,
    finishes: Vec<(FinishDelivery, Reply<bool>)>,
    publishes: Vec<(Id<id::Tenant>, Reply<Published>)>,
    /// Resends, and after them catch-ups.
    resends: Vec<Reply<DueDelivery>>,
    _places: Vec<Place>,
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
    let mut places = Vec::with_capacity(requests.len());
    for entry in requests {
        places.push(entry.place);
        match entry.request {
            Request::Finish(finish, reply) => {
                batch.finishes.push(finish);
                finishes.push((finish, reply));
            }
            Request::Publish(event, reply) => {
                batch.publishes.push(*event);
                publishes.push((entry.tenant, reply));
            }
            Request::Resend(resend, reply) => {
                batch.resends.push(resend);
                resends.push(reply);
            }
            Request::CatchUp(missed, reply) => {
                batch.catch_ups.push(missed);
                catch_ups.push(reply);
            }
        }
    }
    resends.append(&mut catch_ups);
    let waiting = Waiting {
        records,
        finishes,
        publishes,
        resends,
        _places: places,
    };
    (batch, waiting)
}

impl Waiting {
    /// Tells lanes first, and then whoever asked: what a publisher is told of is on its way already.
    pub(super) fn tell(
        self,
        answers: Answers,
        committed: &dyn Committed,
        queue: &mut Queue,
    ) -> Told {
        let mut told = Told::default();
        let mut of_attempts = answers.records.into_iter();
        let mut of_finishes = answers.finishes.into_iter();
        // In the order in which all of it was written: a lane settles an attempt before it hears of a resend.
        for entry in self.records {
            let answer = match entry.write {
                RecordWrite::Attempt(_) => {
                    next(&mut of_attempts).map(|recorded| (Some(recorded), recorded.ended))
                }
                RecordWrite::Expiry(_) => next(&mut of_finishes).map(|ended| (None, ended)),
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
        let mut finished = Vec::with_capacity(self.finishes.len());
        for (finish, reply) in self.finishes {
            let answer = next(&mut of_finishes);
            // Where nobody knows, its lane may have passed over it meanwhile, and it may wait all the same.
            told.look |= answer.as_ref().is_err_and(is_unknown);
            if matches!(answer, Ok(true) | Err(StoreError::OutcomeUnknown { .. })) {
                // Before what is due: a batch finishes before it resends.
                committed.ended(finish);
            }
            finished.push((reply, answer));
        }
        // In the order of their places: publishes, then resends, then catch-ups.
        let mut due = Vec::new();
        let mut published = Vec::with_capacity(self.publishes.len());
        let mut of_publishes = answers.publishes.into_iter();
        for (tenant, reply) in self.publishes {
            let mut answer = next(&mut of_publishes);
            match &mut answer {
                Ok(Published {
                    created,
                    rows,
                    deliveries,
                    ..
                }) => {
                    // A repetition wrote nothing, and says nothing of the next event.
                    if *created {
                        queue.learn(tenant, *rows);
                    }
                    // Theirs are the lanes; whoever published is told how many.
                    due.append(deliveries);
                }
                Err(error) => told.look |= is_unknown(error),
            }
            published.push((reply, answer));
        }
        let mut resent = Vec::with_capacity(self.resends.len());
        let mut of_resends = answers.resends.into_iter().chain(answers.catch_ups);
        for reply in self.resends {
            let answer = next(&mut of_resends);
            match &answer {
                Ok(delivery) => due.push(delivery.clone()),
                Err(error) => told.look |= is_unknown(error),
            }
            resent.push((reply, answer));
        }
        committed.due(due);
        send(finished);
        send(published);
        send(resent);
        told
    }
}

fn is_unknown(error: &StoreError) -> bool {
    matches!(error, StoreError::OutcomeUnknown { .. })
}

/// The next answer. A store that gives too few has written nothing of the rest, as far as anybody knows.
fn next<A>(answers: &mut impl Iterator<Item = Result<A, StoreError>>) -> Result<A, StoreError> {
    answers
        .next()
        .unwrap_or_else(|| Err(StoreError::aborted("the store gave no answer")))
}

fn send<A>(replies: Vec<(Reply<A>, Result<A, StoreError>)>) {
    for (reply, answer) in replies {
        // A publisher that went away gets no answer; its event is accepted all the same.
        drop(reply.send(answer));
    }
}
