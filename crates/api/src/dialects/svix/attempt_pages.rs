//! Pages of attempts: of the newest delivery first, and of each its last attempt first. The iterator is the id of the
//! last attempt that was looked at: whatever comes meanwhile, the next page begins behind it.

use std::collections::HashMap;
use std::time::Duration;

use axum::response::Response;
use postrider_core::attempt::Attempt;
use postrider_core::delivery::Delivery;
use postrider_core::event::EventSummary;
use postrider_core::profile::Profile;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{self as service, Cursor, DeliveryQuery, PageRequest};

use super::attempts::{
    AttemptOut, FIRST, Status, attempt_id, goes_on, read_attempt_id, status_code,
};
use super::lists::{Params, list as list_of, no_iterator};
use super::messages::{ANSWER_BYTES_MAX, LOOKED_AT_MAX, MessageOut, Wanted, still};
use super::{Answer, Client};
use crate::Api;

/// Deliveries that are read at once while a page is put together.
const PIECE: usize = 10;
/// As how many one counts that ended early: the store looks at 20,000 rows for it.
const SHORT: usize = 100;
/// How long before it an attempt's message may have been published, for lists that begin at a time: longer than the
/// schedule takes. What was sent again by hand after that is in lists without a beginning.
const REACH: Duration = Duration::from_secs(3 * 24 * 3_600);

/// Which attempts a list shows.
pub(super) struct Shown {
    pub(super) status: Option<Status>,
    /// 2 for 200 to 299.
    code_class: Option<u16>,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    pub(super) wanted: Wanted,
    pub(super) with_content: bool,
    with_msg: bool,
}

impl Shown {
    pub(super) fn new(params: &Params) -> service::Result<Self> {
        let rule = "must be 0, 100, 200, 300, 400 or 500";
        let class: Option<u16> = params.read("status_code_class", rule)?;
        Ok(Self {
            status: Status::wanted(params)?,
            code_class: class.map(|class| class / 100),
            since: params.time("after")?,
            until: params.time("before")?,
            wanted: Wanted::new(params),
            with_content: params.flag("with_content", true)?,
            with_msg: params.flag("with_msg", false)?,
        })
    }

    fn has(&self, attempt: &Attempt, profile: &Profile) -> bool {
        let status = Status::of_attempt(attempt, profile);
        let class = status_code(attempt) / 100;
        self.status.is_none_or(|wanted| wanted == status)
            && self.code_class.is_none_or(|wanted| wanted == class)
            && self.since.is_none_or(|since| attempt.started_at > since)
            && self.until.is_none_or(|until| attempt.started_at < until)
    }
}

/// A page on its way.
struct Making<'m> {
    api: &'m Api,
    client: &'m Client,
    shown: Shown,
    limit: usize,
    data: Vec<AttemptOut>,
    bytes: usize,
    /// Deliveries and attempts.
    looked: usize,
    last: Option<String>,
}

impl Making<'_> {
    fn is_full(&self) -> bool {
        self.data.len() >= self.limit
            || self.bytes >= ANSWER_BYTES_MAX
            || self.looked >= LOOKED_AT_MAX
    }

    fn ended(self, done: bool) -> Response {
        list_of(self.data, self.last, done)
    }

    /// Takes a delivery's attempts from the last of `attempts` back to its first, which may not be among them; false
    /// where the page was full before.
    async fn take(
        &mut self,
        delivery: &Delivery,
        event: Option<&EventSummary>,
        mut attempts: Vec<Attempt>,
    ) -> service::Result<bool> {
        loop {
            let first = attempts.first().map(|attempt| attempt.number);
            for attempt in attempts.iter().rev() {
                if self.is_full() {
                    return Ok(false);
                }
                self.looked += 1;
                self.last = Some(attempt_id(delivery.id, attempt.number));
                if self.shown.has(attempt, self.client.profile()) {
                    self.show(delivery, event, attempt).await?;
                }
            }
            let Some(first) = first.filter(|first| *first > FIRST) else {
                // Also where nothing was shown: the next page begins behind the whole delivery.
                self.last = Some(attempt_id(delivery.id, FIRST));
                return Ok(true);
            };
            let (service, caller) = (&self.api.service, &self.client.caller);
            let earlier = service.attempts_before(caller, delivery.id, Some(first));
            attempts = earlier.await?.1;
        }
    }

    async fn show(
        &mut self,
        delivery: &Delivery,
        event: Option<&EventSummary>,
        attempt: &Attempt,
    ) -> service::Result<()> {
        let mut view = AttemptOut::new(self.client, delivery, attempt);
        if !self.shown.with_content {
            "{}".clone_into(&mut view.response);
        }
        self.bytes += view.response.len();
        if let Some(event) = event.filter(|_| self.shown.with_msg) {
            let whole = match self.shown.with_content {
                true => still(self.api.service.event(&self.client.caller, event.id).await)?,
                false => None,
            };
            let payload = whole.as_ref().map(|event| &*event.data);
            self.bytes += payload.map_or(0, <[u8]>::len);
            view.msg = Some(MessageOut::new(self.client, event, payload));
        }
        self.data.push(view);
        Ok(())
    }

    /// The events of some deliveries, where it takes them to decide or to show.
    async fn events(
        &self,
        deliveries: impl Iterator<Item = &Delivery>,
    ) -> service::Result<HashMap<Id<id::Event>, EventSummary>> {
        if !self.shown.wanted.asks_meta() && !self.shown.with_msg {
            return Ok(HashMap::new());
        }
        let ids = deliveries.map(|delivery| delivery.event).collect();
        let (service, caller) = (&self.api.service, &self.client.caller);
        let found = service.event_summaries(caller, ids).await?;
        Ok(found.into_iter().map(|event| (event.id, event)).collect())
    }

    fn wants(&self, delivery: &Delivery, event: Option<&EventSummary>) -> bool {
        let wanted = &self.shown.wanted;
        let meta = || event.and_then(|event| event.meta.as_ref());
        wanted.has_type(&delivery.event_type) && (!wanted.asks_meta() || wanted.has_meta(meta()))
    }

    /// Goes on behind the attempt that an iterator names; where the deliveries behind it begin.
    async fn resume(
        &mut self,
        query: &DeliveryQuery,
        text: &str,
    ) -> service::Result<Option<Cursor>> {
        let (delivery, number) = read_attempt_id(text).ok_or_else(no_iterator)?;
        self.last = Some(text.to_owned());
        let (service, caller) = (&self.api.service, &self.client.caller);
        let rest = service.attempts_before(caller, delivery, Some(number));
        let behind = Cursor::behind(delivery);
        let Some((delivery, rest)) = still(rest.await)? else {
            return Ok(Some(behind));
        };
        // Where the store ended a page there may be anybody's.
        let is_in_it = query.tenant == Some(delivery.tenant)
            && query.event.is_none_or(|event| event == delivery.event)
            && query
                .endpoint
                .is_none_or(|endpoint| endpoint == delivery.endpoint)
            && delivery.mode == self.client.caller.own_mode();
        if !is_in_it {
            return Ok(Some(behind));
        }
        let events = self.events(std::iter::once(&delivery)).await?;
        let event = events.get(&delivery.event);
        if self.wants(&delivery, event) && !self.take(&delivery, event, rest).await? {
            return Ok(None);
        }
        Ok(Some(behind))
    }
}

/// Attempts of the deliveries that `query` means.
pub(super) async fn listed(
    api: &Api,
    client: &Client,
    params: &Params,
    query: impl Fn() -> DeliveryQuery,
) -> Answer {
    let mut page = Making {
        api,
        client,
        shown: Shown::new(params)?,
        limit: params.limit()?,
        data: Vec::new(),
        bytes: 0,
        looked: 0,
        last: None,
    };
    let mut cursor = match params.text("iterator") {
        None => None,
        Some(text) => match page.resume(&query(), text).await? {
            None => return Ok(page.ended(false)),
            behind => behind,
        },
    };
    loop {
        let query = DeliveryQuery {
            event_type: page.shown.wanted.only_type(),
            mode: Some(client.caller.own_mode()),
            since: page.shown.since.map(|since| since.minus(REACH)),
            // No attempt is before its message.
            until: page.shown.until,
            ..query()
        };
        let limit = PIECE;
        let piece = PageRequest { limit, cursor };
        let found = api.service.list_attempted(&client.caller, query, piece);
        let found = found.await?;
        // Where few rows came, the store may have looked at very many for them.
        page.looked += match found.rows.len() {
            PIECE.. => PIECE,
            _ => SHORT,
        };
        let deliveries = found.rows.iter().map(|(delivery, _)| delivery);
        let events = page.events(deliveries).await?;
        for (delivery, attempts) in found.rows {
            let event = events.get(&delivery.event);
            if page.wants(&delivery, event) {
                if !page.take(&delivery, event, attempts).await? {
                    return Ok(page.ended(false));
                }
            } else if !page.is_full() {
                // Behind all that it has.
                page.last = Some(attempt_id(delivery.id, FIRST));
            }
        }
        cursor = found.next;
        if cursor.is_none() || page.is_full() {
            page.last = goes_on(cursor).or(page.last);
            return Ok(page.ended(cursor.is_none()));
        }
    }
}
