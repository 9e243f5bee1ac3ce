//! Lists of deliveries: filtered by what the address says, so that every view has one.

use askama::Template;
use axum::extract::State;
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{
    DeliveryListed, DeliveryQuery, PageRequest, Refusal, StatisticsAsked, read_answer, read_state,
};

use crate::Site;
use crate::chart::{Strip, strip};
use crate::door::Visitor;
use crate::frame::{self, Frame, Link, Shown};
use crate::shown::{DeliveryRow, ROWS, next_of, page_of};
use crate::tenant::crumbs_below;
use crate::words::counted;

#[derive(Template)]
#[template(path = "deliveries.html")]
struct Deliveries {
    frame: Frame,
    sentence: String,
    filters: Filters,
    rows: Vec<DeliveryRow>,
    next: Option<String>,
    /// Deliveries that left nothing in what was looked at, with more to look at.
    gap: bool,
    /// Where all that the list holds is sent again, and where is looked whether there are newer ones.
    replay: Option<String>,
    news: Option<String>,
    /// What the list counts over time, where it is one tenant's and can be counted; each bar leads to its part.
    bars: Option<Strip>,
}

/// What the form above the list holds.
struct Filters {
    status: String,
    event_type: String,
    id: String,
    mode: String,
    since: String,
    until: String,
    endpoint: String,
    tenant: String,
    event: String,
    answer: String,
}

impl Filters {
    fn pairs(&self) -> [(&str, &str); 10] {
        [
            ("status", &self.status),
            ("type", &self.event_type),
            ("id", &self.id),
            ("mode", &self.mode),
            ("since", &self.since),
            ("until", &self.until),
            ("endpoint", &self.endpoint),
            ("tenant", &self.tenant),
            ("event", &self.event),
            ("answer", &self.answer),
        ]
    }

    /// Where to send again all that is listed; none where a replay could not be of just these.
    fn replay(&self, visitor: &Visitor, tenant: Id<id::Tenant>, now: Timestamp) -> Option<String> {
        let ended = ["failed", "delivered", "cancelled", "skipped"];
        let whole = self.id.is_empty() && self.event.is_empty() && self.answer.is_empty();
        if !whole || !ended.contains(&self.status.as_str()) {
            return None;
        }
        let chosen = ["status", "type", "mode", "since", "until", "endpoint"];
        let pairs = self.pairs().into_iter();
        let query: String = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(pairs.filter(|(name, text)| chosen.contains(name) && !text.is_empty()))
            // What is made from now on is not among what is listed.
            .extend_pairs(self.until.is_empty().then(|| ("until", now.to_string())))
            .append_pair("preview", "1")
            .finish();
        Some(visitor.href(format_args!("/tenants/{tenant}/replays?{query}")))
    }

    /// Statistics know nothing of single ids, and of how attempts ended.
    fn can_be_counted(&self) -> bool {
        self.id.is_empty() && self.event.is_empty() && self.answer.is_empty()
    }

    fn any(&self) -> bool {
        self.pairs().iter().any(|(_, value)| !value.is_empty())
    }
}

pub(crate) async fn list(State(site): State<Site>, visitor: Visitor) -> Shown {
    let refused = visitor.refused();
    let (service, who) = (site.service(), &visitor.visit.caller);
    let text = |name| visitor.query.text(name);
    let filters = Filters {
        status: text("status"),
        event_type: text("type"),
        id: text("id"),
        mode: text("mode"),
        since: text("since"),
        until: text("until"),
        endpoint: text("endpoint"),
        tenant: text("tenant"),
        event: text("event"),
        answer: text("answer"),
    };
    let query = query(&visitor).map_err(&refused)?;
    let (tenant, own) = (query.tenant, visitor.own_tenant());
    let page = page_of(&visitor).map_err(&refused)?;
    let found = service.list_deliveries(who, query, page);
    let found = found.await.map_err(&refused)?;
    let now = service.now();
    let rows: Vec<DeliveryRow> = found
        .rows
        .iter()
        .map(|listed| DeliveryRow::new(&visitor, listed, now))
        .collect();
    let next = next_of(&found, &visitor.href("/deliveries"), &filters.pairs());
    let sentence = match (rows.len(), &next, filters.any()) {
        (some, _, _) if some > 0 && visitor.query.get("after").is_some() => {
            "Older ones.".to_owned()
        }
        (0, None, false) => "No delivery yet: publish an event, and it is here.".to_owned(),
        (0, None, true) => "No delivery is like that.".to_owned(),
        (0, Some(_), _) => "None among those that were looked at; there are older ones.".to_owned(),
        (some, None, _) => format!(
            "{}, the newest first.",
            counted(some as u64, "delivery", "deliveries")
        ),
        (some, Some(_), _) => format!("The newest {some}; older ones follow."),
    };
    let crumbs = match tenant.or(own) {
        Some(tenant) => crumbs_below(&site, &visitor, tenant).await,
        None => vec![Link::new("/", "Overview")],
    };
    let bars = match tenant.or(own).filter(|_| filters.can_be_counted()) {
        Some(tenant) => bars(&site, &visitor, &filters, tenant).await,
        None => None,
    };
    let frame = Frame::of(&visitor, "Deliveries").behind(crumbs);
    let some = !rows.is_empty() || next.is_some();
    let replay = tenant.or(own).filter(|_| some && frame.may_change());
    let page = Deliveries {
        replay: replay.and_then(|tenant| filters.replay(&visitor, tenant, now)),
        bars,
        news: news_of(&visitor, &filters, found.rows.first()),
        frame,
        sentence,
        gap: rows.is_empty() && next.is_some(),
        filters,
        rows,
        next,
    };
    frame::show(&page.frame, &page)
}

/// The counts of what is listed, over its time or the last day. None where there is too much to count for a page.
async fn bars(
    site: &Site,
    visitor: &Visitor,
    filters: &Filters,
    tenant: Id<id::Tenant>,
) -> Option<Strip> {
    let asked = query(visitor).ok()?;
    let asked = StatisticsAsked {
        since: asked.since,
        until: asked.until,
        event_type: asked.event_type,
        state: asked.state,
        mode: asked.mode,
        endpoint: asked.endpoint,
        without_outcomes: true,
        ..StatisticsAsked::default()
    };
    let who = &visitor.visit.caller;
    let counted = site.service().statistics(who, tenant, asked).await.ok()?;
    let part = |since: Timestamp| {
        // The first and the last period may reach beyond what is counted.
        let until = since.plus(counted.period).min(counted.until);
        let since = since.max(counted.since);
        let kept = filters.pairs().into_iter();
        let kept =
            kept.filter(|(name, text)| !text.is_empty() && !["since", "until"].contains(name));
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(kept)
            .append_pair("since", &since.to_string())
            .append_pair("until", &until.to_string())
            .finish();
        visitor.href(format_args!("/deliveries?{query}"))
    };
    Some(strip(&counted).leading(part))
}

/// Where is looked whether the list has newer ones: of its first page only.
fn news_of(
    visitor: &Visitor,
    filters: &Filters,
    newest: Option<&DeliveryListed>,
) -> Option<String> {
    // What comes to an end has been made before: a list of what ended so has no newer ones to tell of.
    if visitor.query.get("after").is_some()
        || !(filters.status.is_empty() && filters.answer.is_empty())
    {
        return None;
    }
    // No further back than what is there.
    let since = newest.filter(|_| filters.since.is_empty());
    let since = since.map(|listed| listed.delivery.created_at.to_string());
    let newest = newest.map(|listed| listed.delivery.id.to_string());
    let pairs = filters.pairs().into_iter();
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs.filter(|(_, text)| !text.is_empty()))
        .extend_pairs(newest.map(|id| ("newest", id)))
        .extend_pairs(since.map(|since| ("since", since)))
        .finish();
    Some(visitor.href(format_args!("/deliveries/news?{query}")))
}

/// How many there are since a page of the list was shown.
pub(crate) async fn news(State(site): State<Site>, visitor: Visitor) -> Shown {
    let refused = visitor.refused();
    let newest: Option<Id<id::Delivery>> =
        parsed("newest", visitor.query.get("newest")).map_err(&refused)?;
    let query = query(&visitor).map_err(&refused)?;
    let (service, who) = (site.service(), &visitor.visit.caller);
    let found = service.list_deliveries(who, query, PageRequest::first(ROWS));
    let found = found.await.map_err(&refused)?;
    // To a list that was empty all are newer: `None` is less than any id.
    let newer = |listed: &&DeliveryListed| Some(listed.delivery.id) > newest;
    let count = found.rows.iter().filter(newer).count();
    let more = if count == ROWS { " or more" } else { "" };
    Ok(frame::word(format!("{count}{more}")))
}

fn query(visitor: &Visitor) -> Result<DeliveryQuery, Refusal> {
    let fields = &visitor.query;
    let text = |name| fields.get(name).map(str::to_owned);
    Ok(DeliveryQuery {
        tenant: parsed("tenant", fields.get("tenant"))?,
        endpoint: parsed("endpoint", fields.get("endpoint"))?,
        event: parsed("event", fields.get("event"))?,
        webhook_id: text("id"),
        event_type: text("type"),
        mode: mode(fields.get("mode"))?,
        state: read_state(fields.get("status"))?,
        answer: read_answer(fields.get("answer"))?,
        since: time("since", fields.get("since"))?,
        until: time("until", fields.get("until"))?,
        ..DeliveryQuery::default()
    })
}

fn parsed<K: id::Kind>(field: &str, text: Option<&str>) -> Result<Option<Id<K>>, Refusal> {
    let parsed = text.map(str::parse::<Id<K>>).transpose();
    parsed.map_err(|error| Refusal::invalid(field, error.to_string()))
}

pub(crate) fn mode(text: Option<&str>) -> Result<Option<Mode>, Refusal> {
    match text {
        None => Ok(None),
        Some("live") => Ok(Some(Mode::Live)),
        Some("test") => Ok(Some(Mode::Test)),
        Some(_) => Err(Refusal::invalid("mode", "must be live or test")),
    }
}

/// A time as the API writes it, or as the fields of browsers do: `2026-11-28T10:34`, which is UTC here.
pub(crate) fn time(field: &str, text: Option<&str>) -> Result<Option<Timestamp>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    let whole = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        19 => format!("{text}Z"),
        _ => text.to_owned(),
    };
    let parsed = whole.parse::<Timestamp>();
    let rule = |_| Refusal::invalid(field, "must be a time such as 2026-11-28T10:34, in UTC");
    parsed.map(Some).map_err(rule)
}
