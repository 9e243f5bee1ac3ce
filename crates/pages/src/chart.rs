//! Pictures drawn here, as SVG in the page: they need no script, and print.

use std::time::Duration;

use postrider_core::Timestamp;
use postrider_core::attempt::Attempt;
use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::profile::Profile;
use postrider_service::{Counts, LastHour, MINUTES, Point, Statistics, Times};

use crate::delivery::after;
use crate::words::{Standing, counted, grouped, long};

/// Height of the bars of a strip, in the picture's units.
const STRIP_HEIGHT: u64 = 40;

/// One bar of a strip: its height is how much, its colour the worst that happened.
pub(crate) struct Cell {
    pub(crate) x: u64,
    pub(crate) y: u64,
    pub(crate) height: u64,
    pub(crate) class: &'static str,
    /// For those who cannot see it, and on hover.
    pub(crate) title: String,
    at: Timestamp,
    /// Where what it counts is listed.
    pub(crate) href: Option<String>,
}

/// A day or whatever range it is of, in bars.
pub(crate) struct Strip {
    pub(crate) cells: Vec<Cell>,
    pub(crate) width: u64,
    /// All of it in one sentence.
    pub(crate) summary: String,
}

impl Strip {
    /// Each bar leads to where its part is listed.
    pub(crate) fn leading(mut self, part: impl Fn(Timestamp) -> String) -> Self {
        for cell in &mut self.cells {
            cell.href = Some(part(cell.at));
        }
        self
    }

    pub(crate) fn leads(&self) -> bool {
        self.cells.iter().any(|cell| cell.href.is_some())
    }
}

/// Bars of a strip at most: each has its place, also where nothing happened.
const CELLS_MAX: u64 = 200;

pub(crate) fn strip(statistics: &Statistics) -> Strip {
    let period = statistics.period.max(Duration::from_secs(1));
    let range = statistics.until.since(statistics.since);
    // One more than the range has, which need not begin where a period does.
    let places = range.as_secs().div_ceil(period.as_secs().max(1)) + 1;
    let wanted = places.max(1);
    let places = wanted.min(CELLS_MAX);
    let series = statistics.series.iter();
    let most = series.map(|point| point.counts.total).max().unwrap_or(0);
    let mut cells = Vec::new();
    // Of more than have a place the newest.
    let before = u32::try_from(wanted - places).unwrap_or(u32::MAX);
    let first = floor(statistics.since, period).plus(period.saturating_mul(before));
    for Point { at, counts, times } in &statistics.series {
        let place = at.since(first).as_secs() / period.as_secs().max(1);
        if counts.total == 0 || *at < first || place >= places {
            continue;
        }
        // However little it is, it is to be seen.
        let height = (counts.total * STRIP_HEIGHT).div_ceil(most.max(1)).max(3);
        cells.push(Cell {
            x: place * 10,
            y: STRIP_HEIGHT.saturating_sub(height),
            height,
            class: worst(*counts),
            title: format!("{at}: {}{}", told(*counts), answered(times)),
            at: *at,
            href: None,
        });
    }
    let totals = statistics.totals;
    Strip {
        cells,
        width: places * 10,
        summary: format!(
            "{} in {}: {}",
            counted(totals.total, "delivery", "deliveries"),
            long(range),
            told(totals)
        ),
    }
}

/// The attempts of the hour that ends `now`, a bar for each minute: what failed stands on what succeeded.
pub(crate) fn hour(hour: &LastHour, now: Timestamp) -> Strip {
    let minute = Duration::from_secs(60);
    let minutes = hour.minutes.iter();
    let most = minutes.map(|(attempts, _)| *attempts).max().unwrap_or(0);
    let first = floor(now, minute).minus(minute * (MINUTES as u32 - 1));
    let mut cells = Vec::new();
    for (place, (attempts, succeeded)) in (0_u32..).zip(hour.minutes) {
        if attempts == 0 {
            continue;
        }
        let at = first.plus(minute * place);
        let height = (attempts * STRIP_HEIGHT).div_ceil(most.max(1)).max(3);
        // A few failures among many are seen too.
        let failed = ((attempts - succeeded) * height).div_ceil(attempts);
        let top = STRIP_HEIGHT.saturating_sub(height);
        for (y, height, class) in [
            (top, failed, "failed"),
            (top + failed, height - failed, "delivered"),
        ] {
            if height > 0 {
                cells.push(Cell {
                    x: u64::from(place) * 10,
                    y,
                    height,
                    class,
                    title: format!("{at}: {}", attempts_told(attempts, succeeded)),
                    at,
                    href: None,
                });
            }
        }
    }
    Strip {
        cells,
        width: MINUTES as u64 * 10,
        summary: format!(
            "The last hour: {}",
            attempts_told(hour.attempts, hour.succeeded)
        ),
    }
}

fn attempts_told(attempts: u64, succeeded: u64) -> String {
    let attempts_word = counted(attempts, "attempt", "attempts");
    match attempts - succeeded.min(attempts) {
        0 => attempts_word,
        failed => format!("{attempts_word}, {} failed", grouped(failed)),
    }
}

/// How soon most of a bar's answers came, where any did.
fn answered(times: &Times) -> String {
    let most = times.within(99);
    most.map_or_else(String::new, |most| {
        format!("; 99 of 100 answered within {}", long(most))
    })
}

fn floor(at: Timestamp, period: Duration) -> Timestamp {
    let secs = i64::try_from(period.as_secs().max(1)).unwrap_or(1);
    Timestamp::from_secs(at.as_unix().div_euclid(secs) * secs)
}

fn worst(counts: Counts) -> &'static str {
    match counts {
        Counts { failed: 1.., .. } => "failed",
        Counts { pending: 1.., .. } => "waiting",
        Counts { delivered: 1.., .. } => "delivered",
        _ => "cancelled",
    }
}

/// Counts in words, without those that are none.
pub(crate) fn told(counts: Counts) -> String {
    let parts = [
        (counts.delivered, "delivered"),
        (counts.failed, "failed"),
        (counts.pending, "waiting"),
        (counts.cancelled, "cancelled"),
        (counts.skipped, "skipped"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let words: Vec<String> = parts
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    if words.is_empty() {
        "nothing".to_owned()
    } else {
        words.join(", ")
    }
}

/// The ways that a delivery can take, and the one that it took.
pub(crate) struct Machine {
    pub(crate) waited: bool,
    pub(crate) waits: bool,
    pub(crate) tried: bool,
    pub(crate) retried: bool,
    pub(crate) attempts: u32,
    pub(crate) end: &'static str,
    /// The last of the three ends: cancelled, or skipped from the start.
    pub(crate) third: &'static str,
    /// The way in one sentence.
    pub(crate) summary: String,
}

impl Machine {
    pub(crate) fn of(delivery: &Delivery) -> Self {
        let waits = delivery.state == DeliveryState::Pending;
        let skipped = delivery.state == DeliveryState::Skipped;
        let tried = delivery.attempts > 0;
        let end = if waits { "" } else { delivery.state.as_str() };
        let attempts = counted(delivery.attempts.into(), "attempt", "attempts");
        Self {
            waits,
            waited: !skipped,
            tried,
            retried: delivery.attempts > 1 || (waits && tried),
            attempts: delivery.attempts,
            end,
            third: if skipped { "skipped" } else { "cancelled" },
            summary: format!(
                "Accepted, {attempts}, now {}.",
                Standing::of_delivery(delivery).word
            ),
        }
    }
}

/// An attempt at its place in time.
pub(crate) struct Dot {
    /// In thousandths of the whole.
    pub(crate) x: u64,
    pub(crate) label: String,
    pub(crate) class: &'static str,
    pub(crate) title: String,
}

/// Room that a label takes, in thousandths.
const LABEL_WIDTH: u64 = 30;

/// A delivery's last attempts with the gaps between them to scale, and the next one when it is known.
pub(crate) fn timeline(delivery: &Delivery, drawn: &[&Attempt], profile: &Profile) -> Vec<Dot> {
    let is_all = usize::try_from(delivery.attempts).is_ok_and(|made| made <= drawn.len());
    let begin = if !is_all {
        drawn
            .first()
            .map_or(delivery.created_at, |first| first.started_at)
    } else {
        delivery.created_at
    };
    let next = (delivery.state == DeliveryState::Pending).then_some(delivery.due_at);
    let last = drawn.last().map_or(begin, |last| last.ended_at);
    let end = next.map_or(last, |next| next.max(last));
    // What was made just now has taken no time yet.
    let whole = end.since(begin).as_micros().max(1);
    let place = |at: Timestamp| {
        let x = at.since(begin).as_micros() * 1_000 / whole;
        u64::try_from(x).unwrap_or(1_000).min(1_000)
    };
    let mut dots: Vec<Dot> = drawn
        .iter()
        .map(|attempt| {
            let class = profile.classify.class(&attempt.outcome);
            let standing = Standing::of_attempt(class, after(delivery, drawn, attempt.number));
            Dot {
                x: place(attempt.started_at),
                label: attempt.number.to_string(),
                class: standing.class,
                title: format!(
                    "Attempt {} at {}: {}",
                    attempt.number, attempt.started_at, standing.word
                ),
            }
        })
        .collect();
    if let Some(at) = next {
        dots.push(Dot {
            x: place(at),
            label: "next".to_owned(),
            class: "waiting",
            title: format!("The next attempt is due at {at}"),
        });
    }
    // What would be written over is left out: the dot still tells it.
    let mut written = None;
    for dot in &mut dots {
        if written.is_some_and(|before| dot.x < before + LABEL_WIDTH) {
            dot.label.clear();
        } else {
            written = Some(dot.x);
        }
    }
    dots
}
