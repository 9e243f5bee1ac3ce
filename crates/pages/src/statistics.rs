//! Statistics of a tenant's deliveries: every number is a link to the list behind it.

use std::time::Duration;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use http::header;
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{Counts, Outcomes, Refusal, StatisticsAsked};

use crate::Site;
use crate::chart::{Strip, strip, told};
use crate::day::rate;
use crate::deliveries::{mode, time};
use crate::door::Visitor;
use crate::endpoint::tenant_of;
use crate::frame::{self, Frame, Link, Shown};
use crate::outcomes::Ends;
use crate::shown::{ROWS, name_of, tell_apart};
use crate::tenant::crumbs_below;
use crate::words::{code, grouped, long};

/// Ranges to choose from: what the address says, what people read, in hours.
const RANGES: [(&str, &str, u64); 4] = [
    ("1h", "hour", 1),
    ("24h", "24 hours", 24),
    ("7d", "7 days", 168),
    ("30d", "30 days", 720),
];

#[derive(Template)]
#[template(path = "statistics.html")]
struct Statistics {
    frame: Frame,
    /// What the numbers of a row count.
    names: [&'static str; 6],
    sentence: String,
    ranges: Vec<(Link, bool)>,
    strip: Strip,
    period: String,
    ends: Option<Ends>,
    tables: Vec<Table>,
    totals: Row,
    more_endpoints: usize,
    /// There are types that have no row.
    more_types: bool,
    /// The same as a file.
    file: String,
}

/// In the order of a row's numbers.
const NAMES: [&str; 6] = [
    "all",
    "delivered",
    "failed",
    "waiting",
    "cancelled",
    "skipped",
];

struct Table {
    name: &'static str,
    rows: Vec<Row>,
}

struct Row {
    label: String,
    /// The page of what it counts, if it has one.
    href: Option<String>,
    numbers: Vec<Link>,
    rate: String,
}

pub(crate) async fn show(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let refused = visitor.refused();
    let tenant = tenant_of(&visitor, &id)?;
    let chosen = visitor.query.get("range").unwrap_or("24h");
    let asked = asked(&site, &visitor, chosen).map_err(&refused)?;
    let who = &visitor.visit.caller;
    let mode = asked.mode.map(Mode::as_str);
    let counted = site.service().statistics(who, tenant, asked).await;
    let counted = counted.map_err(&refused)?;
    let behind = Behind {
        base: visitor.href("/deliveries"),
        tenant: tenant.to_string(),
        since: counted.since,
        until: counted.until,
        mode,
    };
    let left = counted.by_endpoint.len().saturating_sub(ROWS);
    let path = visitor.href(format_args!("/tenants/{tenant}/statistics"));
    let of_mode = behind
        .mode
        .map_or_else(String::new, |mode| format!("&mode={mode}"));
    let ranges = RANGES.iter().map(|(word, label, _)| {
        let link = Link::new(
            format!("{path}?range={word}{of_mode}"),
            format!("last {label}"),
        );
        (link, *word == chosen)
    });
    let page = Statistics {
        names: NAMES,
        frame: Frame::of(&visitor, "Statistics")
            .behind(crumbs_below(&site, &visitor, tenant).await),
        sentence: format!("{}.", capital(&told(counted.totals))),
        ranges: ranges.collect(),
        strip: strip(&counted),
        period: long(counted.period),
        totals: behind.row("All".to_owned(), &[], counted.totals),
        ends: counted
            .outcomes
            .as_ref()
            .map(|outcomes| Ends::of(outcomes, |answer| behind.list(&[("answer", answer)]))),
        more_endpoints: counted.more_endpoints + left,
        more_types: counted.other_types.is_some() || counted.by_type.len() > ROWS,
        file: same_as_file(&visitor, tenant, chosen),
        tables: tables(&site, &visitor, &counted, &behind).await,
    };
    frame::show(&page.frame, &page)
}

/// The address of the same counts as a file.
fn same_as_file(visitor: &Visitor, tenant: Id<id::Tenant>, range: &str) -> String {
    let asked = ["since", "until", "mode"];
    let asked = asked
        .iter()
        .filter_map(|name| Some((*name, visitor.query.get(name)?)));
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("range", range)
        .extend_pairs(asked)
        .finish();
    visitor.href(format_args!("/tenants/{tenant}/statistics.csv?{query}"))
}

/// The same counts as a file for a spreadsheet (RFC 4180).
pub(crate) async fn file(
    State(site): State<Site>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Shown {
    let refused = visitor.refused();
    let tenant = tenant_of(&visitor, &id)?;
    let chosen = visitor.query.get("range").unwrap_or("24h");
    let asked = asked(&site, &visitor, chosen).map_err(&refused)?;
    let counted = site
        .service()
        .statistics(&visitor.visit.caller, tenant, asked)
        .await
        .map_err(&refused)?;
    let mut text = "by,name,all,delivered,failed,waiting,cancelled,skipped,attempts\r\n".to_owned();
    let mut line = |by: &str, name: &str, counts: Counts| {
        let Counts {
            total,
            delivered,
            failed,
            pending,
            cancelled,
            skipped,
            attempts,
        } = counts;
        let name = field(name);
        text += &format!(
            "{by},{name},{total},{delivered},{failed},{pending},{cancelled},{skipped},{attempts}\r\n"
        );
    };
    line("all", "", counted.totals);
    for (name, counts) in &counted.by_type {
        line("type", name, *counts);
    }
    if let Some(rest) = counted.other_types {
        line("type", "all others", rest);
    }
    for of in &counted.by_endpoint {
        line("endpoint", &of.endpoint.to_string(), of.counts);
    }
    if counted.more_endpoints > 0 {
        let told = counted.by_endpoint.iter();
        let rest = told.fold(counted.totals, |rest, of| less(rest, of.counts));
        line("endpoint", "all others", rest);
    }
    for (mode, counts) in &counted.by_mode {
        line("mode", mode.as_str(), *counts);
    }
    for (end, attempts) in counted.outcomes.iter().flat_map(Outcomes::by_count) {
        let end = field(&code(end));
        text += &format!("outcome,{end},,,,,,,{attempts}\r\n");
    }
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=statistics.csv",
        ),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, text).into_response())
}

fn less(all: Counts, some: Counts) -> Counts {
    Counts {
        total: all.total.saturating_sub(some.total),
        pending: all.pending.saturating_sub(some.pending),
        delivered: all.delivered.saturating_sub(some.delivered),
        failed: all.failed.saturating_sub(some.failed),
        cancelled: all.cancelled.saturating_sub(some.cancelled),
        skipped: all.skipped.saturating_sub(some.skipped),
        attempts: all.attempts.saturating_sub(some.attempts),
    }
}

/// A text as a field: whoever named an event type shall not make a formula of it.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let guard = if formula { "'" } else { "" };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

/// What the address asks for.
fn asked(site: &Site, visitor: &Visitor, range: &str) -> Result<StatisticsAsked, Refusal> {
    let range = RANGES.iter().find(|(word, ..)| *word == range);
    let hours = range.map_or(24, |(.., hours)| *hours);
    let begin = site
        .service()
        .now()
        .minus(Duration::from_secs(hours * 3_600));
    Ok(StatisticsAsked {
        since: time("since", visitor.query.get("since"))?.or(Some(begin)),
        until: time("until", visitor.query.get("until"))?,
        mode: mode(visitor.query.get("mode"))?,
        ..StatisticsAsked::default()
    })
}

async fn tables(
    site: &Site,
    visitor: &Visitor,
    counted: &postrider_service::Statistics,
    behind: &Behind,
) -> Vec<Table> {
    let who = &visitor.visit.caller;
    let mut by_type: Vec<_> = counted.by_type.iter().collect();
    if by_type.len() > ROWS {
        by_type.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.total));
        by_type.truncate(ROWS);
    }
    let by_type = by_type.into_iter().map(|(name, counts)| {
        let label = name.as_ref().to_owned();
        behind.row(label, &[("type", name)], *counts)
    });
    let (mut by_endpoint, mut ids) = (Vec::new(), Vec::new());
    for of in counted.by_endpoint.iter().take(ROWS) {
        let id = of.endpoint.to_string();
        // One that was deleted has lost its name, not its number.
        let found = site.service().endpoint(who, &id).await.ok();
        let is_there = found.is_some();
        let name = found.map(|(endpoint, _)| name_of(&endpoint));
        let label = name.or_else(|| of.key.clone());
        let label = label.unwrap_or_else(|| id.clone());
        let mut row = behind.row(label, &[("endpoint", &id)], of.counts);
        row.href = is_there.then(|| visitor.href(format_args!("/endpoints/{id}")));
        by_endpoint.push(row);
        ids.push(id);
    }
    let labels = by_endpoint.iter_mut().map(|row| &mut row.label);
    tell_apart(labels.zip(ids));
    let mut tables = vec![
        Table {
            name: "Type",
            rows: by_type.collect(),
        },
        Table {
            name: "Endpoint",
            rows: by_endpoint,
        },
    ];
    if who.own_mode() == Mode::Live {
        let by_mode = counted.by_mode.iter().map(|(mode, counts)| {
            let word = mode.as_str();
            behind.row(word.to_owned(), &[("mode", word)], *counts)
        });
        tables.push(Table {
            name: "Mode",
            rows: by_mode.collect(),
        });
    }
    tables
}

/// The list that a number is of.
struct Behind {
    base: String,
    tenant: String,
    since: Timestamp,
    until: Timestamp,
    /// Where only one is counted.
    mode: Option<&'static str>,
}

impl Behind {
    fn list(&self, filters: &[(&str, &str)]) -> String {
        let is_any = filters.iter().all(|(name, _)| *name != "mode");
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("tenant", &self.tenant)
            .append_pair("since", &self.since.to_string())
            .append_pair("until", &self.until.to_string())
            .extend_pairs(self.mode.filter(|_| is_any).map(|mode| ("mode", mode)))
            .extend_pairs(filters)
            .finish();
        format!("{}?{query}", self.base)
    }

    fn row(&self, label: String, filters: &[(&str, &str)], counts: Counts) -> Row {
        let link = |status: &str, number: u64| {
            let status = [("status", status)];
            let status = &status[..usize::from(!status[0].1.is_empty())];
            Link::new(self.list(&[filters, status].concat()), grouped(number))
        };
        Row {
            label,
            href: None,
            numbers: vec![
                link("", counts.total),
                link("delivered", counts.delivered),
                link("failed", counts.failed),
                link("pending", counts.pending),
                link("cancelled", counts.cancelled),
                link("skipped", counts.skipped),
            ],
            rate: rate(counts.delivered, counts.failed),
        }
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}", first.unwrap_or_default(), letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn a_field_is_a_text_whatever_it_begins_with() {
        assert_eq!(field("order.completed"), "\"order.completed\"");
        assert_eq!(field("a \"b\", c"), "\"a \"\"b\"\", c\"");
        assert_eq!(field("=1+1"), "\"'=1+1\"");
    }
}
