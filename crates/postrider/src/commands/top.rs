//! What a server does just now, in a terminal: its own figures, read again and again.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::Connection;
use crate::client::Client;
use crate::output::line;

/// Moves to the upper left corner and clears what is there.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Args)]
pub struct TopArgs {
    /// Seconds between two looks; the key must be a root key
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    every: u64,
    /// Looks until it ends; without, it goes on
    #[arg(long)]
    times: Option<u32>,
    #[command(flatten)]
    connection: Connection,
}

/// # Errors
/// When the server cannot be reached, or the key is no root key.
pub async fn top(args: TopArgs) -> anyhow::Result<()> {
    let client = args.connection.client()?;
    let clear = std::io::stdout().is_terminal();
    let mut before = Figures::read(&client).await?;
    let mut looks = 0;
    while args.times.is_none_or(|times| looks < times) {
        tokio::time::sleep(Duration::from_secs(args.every)).await;
        let now = Figures::read(&client).await?;
        if args.connection.json {
            line(&serde_json::to_string(&now.values)?);
        } else {
            let screen = screen(&before, &now);
            line(&format!("{}{screen}", if clear { CLEAR } else { "" }));
        }
        before = now;
        looks += 1;
    }
    Ok(())
}

/// All figures at one moment, by name and labels.
struct Figures {
    at: Instant,
    values: HashMap<String, f64>,
}

impl Figures {
    async fn read(client: &Client) -> anyhow::Result<Self> {
        let text = client.text("/metrics").await?;
        Ok(Self {
            at: Instant::now(),
            values: parsed(&text),
        })
    }

    /// The sum of all series of a name whose labels have `with`.
    fn sum(&self, name: &str, with: &str) -> f64 {
        let named = self.values.iter().filter(|(series, _)| {
            let (known, labels) = series.split_once('{').unwrap_or((series, ""));
            known == name && labels.contains(with)
        });
        // Of nothing it is zero, and not less.
        named.map(|(_, value)| value).sum::<f64>() + 0.0
    }

    fn greatest(&self, name: &str, with: &str) -> f64 {
        let named = self.values.iter().filter(|(series, _)| {
            let (known, labels) = series.split_once('{').unwrap_or((series, ""));
            known == name && labels.contains(with)
        });
        named.map(|(_, value)| *value).fold(0.0, f64::max)
    }

    /// The buckets of a histogram: how many were within each bound.
    fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let name = format!("{name}_bucket");
        let mut by_bound: Vec<(f64, f64)> = Vec::new();
        for (series, value) in &self.values {
            let Some(labels) = series.strip_prefix(&name) else {
                continue;
            };
            let bound = labels
                .split("le=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next());
            let Some(bound) = bound.and_then(|bound| bound.replace("+Inf", "inf").parse().ok())
            else {
                continue;
            };
            match by_bound.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += value,
                None => by_bound.push((bound, *value)),
            }
        }
        // A map has no order, and the last bucket has to be the one that holds all.
        by_bound.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        by_bound
    }
}

/// Prometheus' text, as far as it has values.
fn parsed(text: &str) -> HashMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let read = |line: &str| {
        // Labels may hold blanks; values do not.
        let end = line
            .rfind('}')
            .map_or_else(|| line.find(' '), |at| Some(at + 1))?;
        let (series, rest) = line.split_at_checked(end)?;
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some((series.to_owned(), value))
    };
    lines.filter_map(read).collect()
}

fn screen(before: &Figures, now: &Figures) -> String {
    let secs = (now.at - before.at).as_secs_f64().max(0.001);
    let rate = |name: &str, with: &str| {
        let more = now.sum(name, with) - before.sum(name, with);
        // A server that was started in between counts from zero again.
        format!("{:.1}/s", more.max(0.0) / secs)
    };
    let lanes = |standing: &str| now.sum("postrider_lanes", &format!("\"{standing}\""));
    let held = now.sum("postrider_lane_held", "");
    let able = ["ready", "share", "busy"]
        .map(|standing| now.greatest("postrider_oldest_due_seconds", &format!("\"{standing}\"")));
    let oldest = able.into_iter().fold(0.0, f64::max);
    let used = |budget: &str| now.sum("postrider_budget_used", &format!("\"{budget}\""));
    let most = |budget: &str| now.sum("postrider_budget_max", &format!("\"{budget}\""));
    let rows = [
        (
            "accepted",
            format!(
                "{} events, {} deliveries",
                rate("postrider_events_total", ""),
                rate("postrider_deliveries_total", "")
            ),
        ),
        (
            "attempts",
            format!(
                "{}; ended: {} delivered, {} failed",
                rate("postrider_attempts_total", ""),
                rate("postrider_deliveries_ended_total", "\"delivered\""),
                rate("postrider_deliveries_ended_total", "\"failed"),
            ),
        ),
        ("receipt", times(before, now, "postrider_receipt_seconds")),
        ("commits", times(before, now, "postrider_commit_seconds")),
        (
            "under way",
            format!("{} of {} requests", used("attempts"), most("attempts")),
        ),
        (
            "waiting",
            format!("{held} in memory, the oldest that could be sent for {oldest:.1} s"),
        ),
        (
            "lanes",
            format!(
                "{} ready, {} at their tenant's share, {} busy, {} waiting, {} behind a breaker, {} closed, {} idle",
                lanes("ready"),
                lanes("share"),
                lanes("busy"),
                lanes("waiting"),
                lanes("broken"),
                lanes("closed"),
                lanes("idle")
            ),
        ),
        (
            "store",
            format!("{:.1} MB", now.sum("postrider_store_bytes", "") / 1e6),
        ),
    ];
    let rows = rows.iter().map(|(name, told)| format!("{name:<10} {told}"));
    rows.collect::<Vec<_>>().join("\n")
}

/// Within what time half, and 99 of 100, of what happened between two looks came to an end.
fn times(before: &Figures, now: &Figures, name: &str) -> String {
    let (old, new) = (before.buckets(name), now.buckets(name));
    let of = |buckets: &[(f64, f64)], bound: f64| {
        let found = buckets.iter().find(|(known, _)| *known == bound);
        found.map_or(0.0, |(_, count)| *count)
    };
    let fresh: Vec<(f64, f64)> = new
        .iter()
        .map(|(bound, count)| (*bound, count - of(&old, *bound)))
        .collect();
    let all = fresh.last().map_or(0.0, |(_, count)| *count);
    if all < 1.0 {
        return "none".to_owned();
    }
    let within = |part: f64| {
        let found = fresh.iter().find(|(_, count)| *count >= all * part);
        match found {
            Some((bound, _)) if bound.is_finite() && *bound < 1.0 => {
                format!("{} ms", bound * 1e3)
            }
            Some((bound, _)) if bound.is_finite() => format!("{bound} s"),
            _ => "longer".to_owned(),
        }
    };
    format!(
        "half within {}, 99 of 100 within {}",
        within(0.5),
        within(0.99)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(text: &str, at: Instant) -> Figures {
        Figures {
            at,
            values: parsed(text),
        }
    }

    #[test]
    fn rates_and_times_are_of_what_came_between_two_looks() {
        let began = Instant::now();
        let before = figures(
            "# HELP postrider_events Events\n\
             postrider_events_total{application=\"a b\"} 10\n\
             postrider_receipt_seconds_bucket{le=\"0.005\"} 100\n\
             postrider_receipt_seconds_bucket{le=\"+Inf\"} 100\n",
            began,
        );
        let now = figures(
            "postrider_events_total{application=\"a b\"} 20\n\
             postrider_events_total{application=\"c\"} 10\n\
             postrider_lanes{standing=\"ready\"} 3\n\
             postrider_oldest_due_seconds{standing=\"ready\"} 2.5\n\
             postrider_receipt_seconds_bucket{le=\"0.005\"} 150\n\
             postrider_receipt_seconds_bucket{le=\"0.025\"} 199\n\
             postrider_receipt_seconds_bucket{le=\"+Inf\"} 200\n\
             postrider_store_bytes 1500000\n",
            began + Duration::from_secs(2),
        );
        let screen = screen(&before, &now);
        assert!(screen.contains("10.0/s events"), "{screen}");
        assert!(
            screen.contains("half within 5 ms, 99 of 100 within 25 ms"),
            "{screen}"
        );
        assert!(screen.contains("3 ready"), "{screen}");
        assert!(screen.contains("sent for 2.5 s"), "{screen}");
        assert!(screen.contains("1.5 MB"), "{screen}");
    }
}
