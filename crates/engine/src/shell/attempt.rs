//! One attempt: render, sign, send, judge, hand the record to the journal.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use postrider_core::attempt::{Attempt, Outcome, Rendering, Timings, UnreachableReason};
use postrider_core::delivery::Delivery;
use postrider_core::endpoint::{EndpointKind, Ordering as LaneOrder};
use postrider_core::event::Event;
use postrider_core::judge::Signal;
use postrider_core::profile::{FormTooLong, Profile, RenderContext};
use postrider_core::time::Moment;
use postrider_core::trace::TraceParent;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{DueDelivery, StoreError};

use super::Engine;
use super::endpoints::{NotReady, ReadyEndpoint};
use super::past_lane::PastLane;
use crate::journal::{RecordEntry, RecordWrite, RecordedEntry};
use crate::machine::Input;
use crate::metrics::Attempted;
use crate::settle::{Sent, Settled, settle};
use crate::trace::{AttemptSpan, span_of};
use crate::transport::{Exchange, Request};

/// An answer within this time comes while others begin: a thousand of them at once would be before what anybody else has to do.
const QUICK: Duration = Duration::from_millis(2);
/// How long an attempt waits before it asks the store for its endpoint again.
const READ_RETRY: Duration = Duration::from_millis(250);
/// How long a delivery waits that this server cannot send now.
const LOCAL_PAUSE: Duration = Duration::from_secs(2);
/// How often a resend past its lane is tried while this server cannot send.
const PAST_LANE_TRIES: u32 = 30;

/// What an attempt is about to send, or why it cannot.
struct Prepared<'r> {
    started: Moment,
    rendering: Option<Arc<Rendering>>,
    request: Result<(&'r ReadyEndpoint, Request), Exchange>,
}

impl Engine {
    /// Makes an attempt, and tells the machine when it has ended or waits for a receiver that is not quick: what it does until
    /// then takes the time of others, and so does a quick answer.
    pub(super) async fn start_attempt(self: Arc<Self>, due: DueDelivery) {
        let starting = Starting(self.clone());
        let mut attempt = std::pin::pin!(self.attempt(due));
        if tokio::time::timeout(QUICK, attempt.as_mut()).await.is_err() {
            drop(starting);
            attempt.await;
        }
    }

    async fn attempt(self: Arc<Self>, due: DueDelivery) {
        let slot = Slot::new(&self, &due);
        let made = match self.make_attempt(due).await {
            Some(Tried::Made(made)) => *made,
            Some(Tried::Waits(due)) => {
                let now = self.now().steady;
                let signal = Signal::Unheard {
                    pause: Some(LOCAL_PAUSE),
                };
                slot.free(now, None, signal);
                self.apply(Input::PutOff { due });
                return;
            }
            None => return,
        };
        let (signal, started_at, took) = (made.settled.signal, made.started.steady, made.took);
        self.hand_over(entry_of(made.settled, None)).await;
        // The slot is free as soon as the journal has the record: waiting for the disk must not look
        // like a slow receiver. The journal's bound holds the number of such records down.
        slot.free(started_at, took, signal);
    }

    pub(super) async fn attempt_past_lane(self: Arc<Self>, due: DueDelivery, past_lane: PastLane) {
        let mut due = due;
        // Whoever asked was told that it is on its way: a fault of ours that passes is waited for.
        for _ in 0..PAST_LANE_TRIES {
            match self.make_attempt(due).await {
                Some(Tried::Made(made)) => {
                    let entry = entry_of(made.settled, Some(past_lane));
                    return self.hand_over(entry).await;
                }
                Some(Tried::Waits(waiting)) => due = *waiting,
                None => return,
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(LOCAL_PAUSE) => {}
            }
        }
        tracing::error!(delivery.id = %due.delivery.id, "a resend past its lane is given up: this server cannot send it");
    }

    /// Makes an attempt and judges it. None when this server does not know the profile's version.
    async fn make_attempt(&self, due: DueDelivery) -> Option<Tried> {
        let endpoint = due.delivery.endpoint;
        let ready = self.ready(endpoint, due.delivery.profile).await;
        let Prepared {
            started,
            rendering,
            request,
        } = match &ready {
            Ok(ready) => self.prepare(ready, &due).await,
            Err(error) => Prepared {
                started: self.now(),
                rendering: None,
                request: Err(not_ready(error)),
            },
        };
        let (request, exchange) = match request {
            Ok((ready, request)) => {
                let exchange = self.exchange(&request).await;
                (Some((request.url, ready.shown(request.headers))), exchange)
            }
            Err(exchange) => (None, exchange),
        };
        if let Outcome::Unreachable {
            reason: UnreachableReason::Local,
            detail,
        } = &exchange.outcome
        {
            // The fault is ours and passes: it is no attempt, and the receiver's record shows none.
            self.tell_of_waiting(&due, ready.is_err(), detail);
            return Some(Tried::Waits(Box::new(due)));
        }
        let (url, headers) = request.unwrap_or_default();
        let took = receivers_time(&exchange.timings);
        let now = self.now();
        let sent = Sent {
            url,
            headers,
            rendering,
            started,
            ended: Moment {
                // Each by its own: the wall clock may have been set meanwhile.
                wall: ended_at(started.wall, &exchange, now.wall),
                steady: ended_at(started.steady, &exchange, now.steady),
            },
            one_off: ready
                .as_ref()
                .is_ok_and(|ready| ready.endpoint.kind == EndpointKind::Callback),
        };
        let Some(profile) = self.profiles.version(due.delivery.profile) else {
            tracing::error!(delivery.id = %due.delivery.id, "the profile version of a delivery is unknown; restart the version that made it");
            return None;
        };
        let ordered = ready
            .as_ref()
            // Where that is not known it keeps its place, so that nothing overtakes it.
            .map_or(true, |ready| ready.endpoint.ordering != LaneOrder::None);
        log_attempt(&profile, &due, &sent, &exchange);
        self.metrics.attempted(
            due.event.application,
            due.delivery.tenant,
            &counted(&due, &sent, &exchange),
        );
        let settled = settle(&profile, due, sent, exchange, ordered, fastrand::f64());
        self.trace(&settled);
        Some(Tried::Made(Box::new(Made {
            settled,
            started,
            took,
        })))
    }

    /// What keeps one back may be the same for all that waits, so few lines tell of it.
    fn tell_of_waiting(&self, due: &DueDelivery, is_damaged: bool, detail: &str) {
        let (delivery, endpoint) = (due.delivery.id, due.delivery.endpoint);
        let now = self.now().steady;
        if is_damaged {
            if let Some(left_out) = self.damaged.may_tell(now) {
                tracing::error!(delivery.id = %delivery, endpoint.id = %endpoint, detail, left_out, "an endpoint cannot be read, or its secret not be opened; the delivery waits");
            }
        } else if let Some(left_out) = self.cannot_send.may_tell(now) {
            tracing::warn!(delivery.id = %delivery, detail, left_out, "this server cannot send now; the delivery waits");
        }
    }

    /// Tells of the attempt where its event's trace is recorded.
    fn trace(&self, settled: &Settled) {
        let Some(tracer) = &self.tracer else { return };
        let (event, delivery) = (&settled.due.event, &settled.due.delivery);
        let Some(publish) = event.traceparent.filter(TraceParent::is_sampled) else {
            return;
        };
        let attempt = &settled.record.attempt;
        tracer.attempted(&AttemptSpan {
            publish,
            span: span_of(delivery.id, attempt.number),
            began: attempt.started_at,
            ended: attempt.ended_at,
            application: event.application,
            tenant: delivery.tenant,
            endpoint: delivery.endpoint,
            event: event.id,
            event_type: &event.event_type,
            delivery: delivery.id,
            number: attempt.number,
            url: &attempt.url,
            outcome: &attempt.outcome,
            timings: attempt.timings,
            next: settled.next,
        });
    }

    /// What of the endpoint makes the body. A distribution's design is that of the delivery's first
    /// attempt, so that all its attempts and resends carry the same (`docs/systems.md`, A-31).
    async fn rendering(
        &self,
        ready: &ReadyEndpoint,
        delivery: &Delivery,
    ) -> Option<Arc<Rendering>> {
        let today = ready.rendering.clone();
        if today.is_none() || delivery.attempts == 0 {
            return today;
        }
        match self.store.first_rendering(delivery.id).await {
            Ok(first) => first.or(today),
            Err(error) => {
                tracing::warn!(delivery.id = %delivery.id, error = &error as &dyn std::error::Error, "failed to read how a delivery was rendered; it goes out as its endpoint is now");
                today
            }
        }
    }

    /// Makes the request of an attempt.
    async fn prepare<'r>(&self, ready: &'r Arc<ReadyEndpoint>, due: &DueDelivery) -> Prepared<'r> {
        let rendering = self.rendering(ready, &due.delivery).await;
        let turn = self.forms.turn(&ready.profile, &due.event).await;
        // Reading our own store is no part of the attempt: its time and its signature begin here.
        let started = self.now();
        let at = started.wall;
        let make = move |ready: &_, rendering: Option<&_>, due: &DueDelivery| {
            let delivery = &due.delivery;
            let (id, created, number) = (delivery.id, delivery.created_at, delivery.attempts + 1);
            let context = context(ready, rendering, &due.event, id, created, number, at);
            request(ready, &context)
        };
        let made = match turn {
            None => make(ready, rendering.as_deref(), due),
            Some(turn) => {
                let (ready, rendering, due) = (ready.clone(), rendering.clone(), due.clone());
                turn.run(move || make(&ready, rendering.as_deref(), &due))
                    .await
            }
        };
        Prepared {
            started,
            rendering,
            request: match made {
                Ok(request) => Ok((ready, request)),
                Err(error) => Err(not_ready(&error.into())),
            },
        }
    }

    /// The endpoint ready for sending. That our store cannot be read is not the receiver's failure:
    /// then this waits, as long as the engine runs. For a row that is damaged it does not: its lane would keep the slots.
    async fn ready(
        &self,
        endpoint: Id<id::Endpoint>,
        version: u32,
    ) -> Result<Arc<ReadyEndpoint>, NotReady> {
        loop {
            match self.endpoints.get(endpoint, version).await {
                Err(NotReady::Store(error)) if !error.is_not_found() && !error.is_damage() => {
                    tracing::warn!(endpoint.id = %endpoint, error = &error as &dyn std::error::Error, "failed to read an endpoint; trying again");
                    tokio::time::sleep(READ_RETRY).await;
                }
                result => return result,
            }
        }
    }

    /// Sends a request. A panic on the way is this attempt's failure and nobody else's.
    async fn exchange(&self, request: &Request) -> Exchange {
        let sending = AssertUnwindSafe(self.transport.send(request)).catch_unwind();
        sending.await.unwrap_or_else(|_| {
            tracing::error!("the transport broke off inside the server");
            let outcome = Outcome::Unreachable {
                reason: UnreachableReason::Internal,
                detail: "the transport failed".to_owned(),
            };
            Exchange {
                outcome,
                response: None,
                timings: Timings::default(),
                egress: None,
            }
        })
    }

    /// The request that an event would be to an endpoint now, byte for byte but for the values of the
    /// endpoint's own headers; nothing is sent.
    ///
    /// # Errors
    /// When the endpoint cannot be read or its secret not be used.
    pub async fn preview(
        &self,
        endpoint: Id<id::Endpoint>,
        event: &Event,
        profile: u32,
    ) -> Result<Request, StoreError> {
        let (mut request, shown) = self.imagined(endpoint, event, profile).await?;
        request.headers = shown;
        Ok(request)
    }

    /// A request, and its headers as they may be shown.
    async fn imagined(
        &self,
        endpoint: Id<id::Endpoint>,
        event: &Event,
        profile: u32,
    ) -> Result<(Request, Vec<(String, String)>), StoreError> {
        let now = self.now().wall;
        let ready = match self.endpoints.get(endpoint, profile).await {
            Ok(ready) => ready,
            Err(NotReady::Store(error)) => return Err(error),
            Err(error) => return Err(StoreError::aborted(error)),
        };
        let make = move |ready: &ReadyEndpoint, event: &Event| {
            let today = ready.rendering.as_deref();
            // There is no delivery: the event's id stands for its.
            let context = context(ready, today, event, event.id.cast(), now, 1, now);
            request(ready, &context)
        };
        let made = match self.forms.turn(&ready.profile, event).await {
            None => make(&ready, event),
            Some(turn) => {
                let (ready, event) = (ready.clone(), event.clone());
                turn.run(move || make(&ready, &event)).await
            }
        };
        let request = made.map_err(StoreError::aborted)?;
        let shown = ready.shown(request.headers.clone());
        Ok((request, shown))
    }

    /// The body that an attempt of a delivery had, or that the first one would have now: it follows
    /// from the event, the profile's version and the attempt, so no copy is kept. None when the
    /// attempt ended before there was a body.
    ///
    /// # Errors
    /// When the endpoint cannot be read.
    pub async fn body_of(
        &self,
        delivery: &Delivery,
        event: &Event,
        attempt: Option<&Attempt>,
    ) -> Result<Option<Bytes>, StoreError> {
        let ready = match self
            .endpoints
            .get(delivery.endpoint, delivery.profile)
            .await
        {
            Ok(ready) => ready,
            Err(NotReady::Store(error)) => return Err(error),
            Err(error) => return Err(StoreError::aborted(error)),
        };
        let (number, at) = attempt.map_or((1, self.now().wall), |attempt| {
            (attempt.number, attempt.started_at)
        });
        if attempt.is_some_and(|attempt| attempt.url.is_empty()) {
            return Ok(None);
        }
        if !event.has_content() {
            return Ok(None);
        }
        let sent = attempt.map(|attempt| attempt.rendering.as_deref());
        let rendering = sent.unwrap_or(ready.rendering.as_deref());
        let (id, created_at) = (delivery.id, delivery.created_at);
        let mut context = context(&ready, rendering, event, id, created_at, number, at);
        // The endpoint may have another by now.
        context.endpoint_url = attempt.map_or(context.endpoint_url, |attempt| &attempt.url);
        Ok(Some(ready.profile.render_body(&context)))
    }

    /// Sends an event to an endpoint now, whatever its state, and records nothing: the test call.
    ///
    /// # Errors
    /// When the endpoint cannot be read or its secret not be used.
    pub async fn test(
        &self,
        endpoint: Id<id::Endpoint>,
        event: Arc<Event>,
        profile: u32,
    ) -> Result<(Attempt, Bytes), StoreError> {
        let started_at = self.now().wall;
        let (request, headers) = self.imagined(endpoint, &event, profile).await?;
        let exchange = self.transport.send(&request).await;
        let attempt = Attempt {
            number: 1,
            started_at,
            ended_at: ended_at(started_at, &exchange, self.now().wall),
            url: request.url,
            request_headers: headers,
            outcome: exchange.outcome,
            response: exchange.response,
            timings: exchange.timings,
            manual: true,
            egress: exchange.egress,
            rendering: None,
        };
        Ok((attempt, request.body))
    }
}

/// What became of an attempt.
enum Tried {
    Made(Box<Made>),
    /// It could not be made for a fault on our side, which passes.
    Waits(Box<DueDelivery>),
}

/// An attempt that was made.
struct Made {
    settled: Settled,
    started: Moment,
    /// How long the receiver needed.
    took: Option<Duration>,
}

/// An attempt that counts as being started; told also where it breaks off.
struct Starting(Arc<Engine>);

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.apply(Input::Started);
    }
}

/// A slot in flight. Whatever becomes of the attempt, it is given back: one that breaks off inside this
/// process costs its own delivery, which is left as it is stored.
struct Slot {
    engine: Arc<Engine>,
    /// None once it is given back.
    due: Option<DueDelivery>,
}

impl Slot {
    fn new(engine: &Arc<Engine>, due: &DueDelivery) -> Self {
        Self {
            engine: engine.clone(),
            due: Some(due.clone()),
        }
    }

    fn free(mut self, started_at: Timestamp, took: Option<Duration>, signal: Signal) {
        if let Some(due) = self.due.take() {
            self.engine.apply(Input::Released {
                endpoint: due.delivery.endpoint,
                started_at,
                took,
                signal,
            });
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(due) = self.due.take() else { return };
        if self.engine.stop.is_cancelled() {
            // Cut off by a shutdown: it is made again after the next start.
            return;
        }
        tracing::error!(delivery.id = %due.delivery.id, "an attempt broke off inside the server; its delivery is set aside as it is stored, and tried again after the next start");
        self.engine.apply(Input::Released {
            endpoint: due.delivery.endpoint,
            // The fault is this server's: nothing is learned of the receiver, good or bad.
            started_at: Timestamp::default(),
            took: None,
            signal: Signal::Unheard { pause: None },
        });
        self.engine.leave_aside(due);
    }
}

/// What is counted of an attempt.
fn counted<'a>(due: &DueDelivery, sent: &Sent, exchange: &'a Exchange) -> Attempted<'a> {
    let delivery = &due.delivery;
    let arrived = matches!(exchange.outcome, Outcome::Answered { status, .. } if status / 100 == 2);
    // One that was resent by hand was not published now.
    let is_first = delivery.attempts == 0 && !delivery.series.single;
    Attempted {
        outcome: &exchange.outcome,
        ended: sent.ended.steady,
        took: sent.ended.steady.since(sent.started.steady),
        late: sent.started.steady.since(delivery.due_at),
        // By the wall clock, which is all that is stored of when it was published.
        receipt: (arrived && is_first).then(|| sent.ended.wall.since(delivery.created_at)),
    }
}

/// The line of the log for one attempt, with every id that somebody may look for.
fn log_attempt(profile: &Profile, due: &DueDelivery, sent: &Sent, exchange: &Exchange) {
    if !tracing::enabled!(target: "postrider::attempt", tracing::Level::DEBUG) {
        return;
    }
    let delivery = &due.delivery;
    let webhook = profile.message_id(delivery.event, delivery.id);
    let trace = due.event.traceparent.map(|trace| trace.trace_id());
    let (status, error) = match &exchange.outcome {
        Outcome::Answered { status, .. } => (Some(*status), None),
        Outcome::Unreachable { reason, .. } => (None, Some(reason.as_str())),
    };
    let number = delivery.attempts + 1;
    let micros = sent.ended.steady.since(sent.started.steady).as_micros();
    tracing::debug!(
        target: "postrider::attempt",
        number, status, error, micros, delivery.id = %delivery.id, webhook.id = webhook,
        endpoint.id = %delivery.endpoint, tenant.id = %delivery.tenant, trace.id = trace,
        "attempt"
    );
}

/// From the request to the answer: what comes before a connection is there says nothing of how busy the
/// receiver is.
fn receivers_time(timings: &Timings) -> Option<Duration> {
    let before = [
        timings.dns_micros,
        timings.connect_micros,
        timings.tls_micros,
    ];
    // Each is at most a time-out, and those are at most five minutes: the sum fits.
    let before: u32 = before.into_iter().flatten().sum();
    let micros = timings.first_byte_micros?.saturating_sub(before);
    Some(Duration::from_micros(micros.into()))
}

fn entry_of(settled: Settled, past_lane: Option<PastLane>) -> RecordEntry {
    let of = RecordedEntry {
        due: settled.due,
        next: settled.next,
        keep_place: settled.record.keep_place,
        past_lane,
        turn: None,
    };
    RecordEntry {
        write: RecordWrite::Attempt(Arc::new(settled.record)),
        of,
    }
}

/// When an attempt ended: with the response's headers, however long its body took (`docs/systems.md`, A-3).
fn ended_at(started_at: Timestamp, exchange: &Exchange, now: Timestamp) -> Timestamp {
    let answered = exchange
        .timings
        .first_byte_micros
        .map(|micros| Duration::from_micros(u64::from(micros)));
    answered.map_or(now, |after| started_at.plus(after).min(now))
}

fn context<'a>(
    ready: &'a ReadyEndpoint,
    rendering: Option<&'a Rendering>,
    event: &'a Event,
    delivery: Id<id::Delivery>,
    created_at: Timestamp,
    number: u32,
    at: Timestamp,
) -> RenderContext<'a> {
    RenderContext {
        event: event.id,
        event_type: &event.event_type,
        occurred_at: event.occurred_at,
        data: &event.data,
        meta: event.meta.as_deref(),
        mode: event.mode,
        tenant: event.tenant,
        delivery,
        delivery_created_at: created_at,
        endpoint: ready.endpoint.id,
        endpoint_url: &ready.endpoint.url,
        distribution: rendering.and_then(|rendering| rendering.distribution.as_ref()),
        key_id: ready.key_id.as_deref(),
        form: rendering.is_some_and(|rendering| rendering.form),
        extra_headers: ready.extra_headers.as_deref(),
        // Each request is a span of its own.
        traceparent: event
            .traceparent
            .filter(|_| ready.passes_trace)
            .map(|trace| trace.child(span_of(delivery, number))),
        mode_names: ready.mode_names.as_ref(),
        attempt_at: at,
        attempt_number: number,
    }
}

fn request(ready: &ReadyEndpoint, context: &RenderContext<'_>) -> Result<Request, FormTooLong> {
    let body = ready.profile.render_body(context);
    let headers = ready.headers(context, &body)?;
    let http = &ready.profile.http;
    Ok(Request {
        url: ready.endpoint.url.clone(),
        headers,
        body,
        connect_timeout: http.connect_timeout,
        total_timeout: http.total_timeout,
        read_max: http.read_max,
        region: ready.region.clone(),
        title_case: http.title_case,
        repeat: http.repeat,
    })
}

fn not_ready(error: &NotReady) -> Exchange {
    let reason = match error {
        // Whoever runs the server can mend it; until then nothing is used up.
        NotReady::Secret(_) => UnreachableReason::Local,
        NotReady::Store(error) if error.is_damage() => UnreachableReason::Local,
        // Of one delivery alone: one that waited before the others would hold them all up.
        NotReady::Store(_) | NotReady::Form(_) | NotReady::Profile(_) => {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "an attempt could not be made"
            );
            UnreachableReason::Internal
        }
    };
    let outcome = Outcome::Unreachable {
        reason,
        detail: error.to_string(),
    };
    Exchange {
        outcome,
        response: None,
        timings: Timings::default(),
        egress: None,
    }
}
