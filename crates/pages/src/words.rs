//! What things are called, and why things are as they are: sentences for people.

use std::time::Duration;

use http::StatusCode;
use postrider_core::Timestamp;
use postrider_core::attempt::{Attempt, Outcome, UnreachableReason};
use postrider_core::delivery::{Delivery, DeliveryState, FailReason};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::health::{DisableReason, DisableRule};
use postrider_core::profile::{Class, Profile, RetrySchedule, Steps};
use postrider_service::SendOutStatus;

/// What was done, by its word in the address of the page that tells it: nobody else's text is shown this way.
pub(crate) fn told(word: &str) -> Option<&'static str> {
    Some(match word {
        "resent" => "Sent again: the new attempt is below, or on its way.",
        "cancelled" => "Cancelled: nothing more is sent of this delivery.",
        "content" => "Deleted: what it said is gone, and nothing of it is sent any more.",
        "enabled" => "Enabled: events from now on are delivered, and what waits goes out.",
        "disabled" => "Disabled: nothing is sent until it is enabled again.",
        "created" => "The endpoint is there: events from now on are delivered to it.",
        "changed" => "Saved.",
        "deleted" => "Deleted: nothing is sent to it any more.",
        "read" => "Marked as read.",
        "replaying" => "Begun: it goes on by itself.",
        "stopped" => "Stopped: what was sent stays sent.",
        "application" => "The application is there: make its first customer.",
        "customer" => "The customer is there: add an endpoint, or open their portal.",
        "key-deleted" => "Deleted: the key opens nothing any more.",
        "catcher" => "What comes to this address is kept for a day, and shown here.",
        "catcher-ended" => "Ended: nothing is kept at that address any more.",
        "deleting" => "Deleted: what it had is erased now, piece by piece.",
        "user-deleted" => "Deleted: they are out.",
        "password" => "You have a new password; whoever was in as you elsewhere is out.",
        "visit-ended" => "Ended: whoever it was is out with the next page.",
        "rotated" => "The endpoint has a new secret.",
        _ => return None,
    })
}

/// How something stands: by icon, word and colour, so that no one of them has to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) class: &'static str,
    pub(crate) icon: &'static str,
    pub(crate) word: &'static str,
}

impl Standing {
    /// In the words of the log of send-outs.
    pub(crate) fn of_send_out(status: SendOutStatus) -> Self {
        match status {
            SendOutStatus::Succeeded => Self::new("delivered", "✓", "succeeded"),
            SendOutStatus::Retrying => Self::new("retrying", "↻", "retrying"),
            SendOutStatus::Failed => Self::new("failed", "✕", "failed"),
            SendOutStatus::Skipped => Self::new("cancelled", "‖", "skipped"),
        }
    }

    /// Of long work.
    pub(crate) const RUNNING: Self = Self::new("waiting", "◔", "running");
    pub(crate) const DONE: Self = Self::new("delivered", "✓", "finished");
    pub(crate) const STOPPED: Self = Self::new("cancelled", "–", "stopped");
    pub(crate) const BROKEN: Self = Self::new("failed", "✕", "failed");

    const fn new(class: &'static str, icon: &'static str, word: &'static str) -> Self {
        Self { class, icon, word }
    }

    pub(crate) fn of_delivery(delivery: &Delivery) -> Self {
        match delivery.state {
            DeliveryState::Pending if delivery.series.attempts > 0 => {
                Self::new("retrying", "↻", "retrying")
            }
            DeliveryState::Pending => Self::new("waiting", "◔", "waiting"),
            DeliveryState::Delivered => Self::new("delivered", "✓", "delivered"),
            DeliveryState::Failed(_) => Self::new("failed", "✕", "failed"),
            DeliveryState::Cancelled => Self::new("cancelled", "–", "cancelled"),
            DeliveryState::Skipped => Self::new("cancelled", "‖", "skipped"),
        }
    }

    pub(crate) fn of_endpoint(endpoint: &Endpoint) -> Self {
        let paused = matches!(endpoint.kind, EndpointKind::Distribution(_));
        let failing = endpoint.health.consecutive_failures > 0;
        match endpoint.health.disabled {
            Some(_) if paused => Self::new("failed", "‖", "paused"),
            Some(disabled) if disabled.reason == DisableReason::Manual => {
                Self::new("cancelled", "‖", "disabled")
            }
            Some(_) => Self::new("failed", "✕", "disabled"),
            None if failing || endpoint.health.failing_since.is_some() => {
                Self::new("retrying", "!", "failing")
            }
            None => Self::new("delivered", "✓", "healthy"),
        }
    }

    pub(crate) fn of_attempt(class: Class, after: After) -> Self {
        match class {
            Class::Retry | Class::Throttle if after != After::Again => {
                Self::new("failed", "✕", "failed")
            }
            Class::Ok => Self::new("delivered", "✓", "taken"),
            Class::Retry => Self::new("retrying", "↻", "failed, tried again"),
            Class::Throttle => Self::new("retrying", "↻", "asked us to wait"),
            Class::Stop => Self::new("failed", "✕", "refused"),
            Class::Disable => Self::new("failed", "✕", "wants no more"),
        }
    }
}

/// How an attempt ended, shortly: `503 Service Unavailable`, `no connection`.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answered { status, .. } => status_text(*status),
        Outcome::Unreachable { reason, .. } => no_answer(*reason).to_owned(),
    }
}

fn no_answer(reason: UnreachableReason) -> &'static str {
    match reason {
        UnreachableReason::Dns => "name not found",
        UnreachableReason::AddressForbidden => "address not allowed",
        UnreachableReason::Connect => "no connection",
        UnreachableReason::Tls => "TLS failed",
        UnreachableReason::Timeout => "timed out",
        UnreachableReason::Reset => "connection broke off",
        UnreachableReason::Protocol => "not HTTP",
        UnreachableReason::TooLarge => "answer too large",
        UnreachableReason::Local => "could not start",
        UnreachableReason::Internal => "could not be built",
    }
}

/// The same of what statistics have of it: `503`, `timeout`.
pub(crate) fn code(code: &str) -> String {
    match (code.parse(), UnreachableReason::parse(code)) {
        (Ok(status), _) => status_text(status),
        (Err(_), Some(reason)) => no_answer(reason).to_owned(),
        (Err(_), None) => code.to_owned(),
    }
}

/// `503 Service Unavailable`; the number alone where it has no name.
pub(crate) fn status_text(status: u16) -> String {
    let name = StatusCode::from_u16(status).ok();
    let name = name.and_then(|status| status.canonical_reason());
    name.map_or_else(|| status.to_string(), |name| format!("{status} {name}"))
}

/// What comes after an attempt that failed and may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Another one.
    Again,
    /// None: it was the last of its delivery.
    Nothing,
    /// It was a test, which is tried once.
    Test,
}

/// What happened in an attempt, in one sentence, and whose turn it is.
pub(crate) fn why(attempt: &Attempt, profile: &Profile, after: After) -> String {
    let class = profile.classify.class(&attempt.outcome);
    match &attempt.outcome {
        Outcome::Answered {
            status,
            retry_after_secs,
        } => {
            let moved = match *status / 100 {
                3 => " Redirects are not followed: the endpoint's URL has to be where it leads.",
                _ => "",
            };
            let status = status_text(*status);
            let asked = retry_after_secs.map_or_else(String::new, |secs| {
                format!(
                    " It asked to be left alone for {}.",
                    long(Duration::from_secs(secs.into()))
                )
            });
            match class {
                Class::Ok => format!("The receiver answered {status}: it has the event."),
                Class::Retry => {
                    let then = match after {
                        After::Again => " and is tried again",
                        After::Nothing => ", and no attempt followed by itself",
                        After::Test => "",
                    };
                    format!(
                        "The receiver answered {status}, which counts as a failure{then}.{asked}{moved}"
                    )
                }
                Class::Throttle => {
                    format!(
                        "The receiver answered {status}: it has more than it can take now.{asked}"
                    )
                }
                Class::Stop => format!(
                    "The receiver answered {status}. By the rules of {} that is a refusal: it is not tried again by itself.",
                    profile.name
                ),
                Class::Disable => format!(
                    "The receiver answered {status}: it wants no more, so the endpoint was disabled."
                ),
            }
        }
        Outcome::Unreachable { reason, detail } => unreachable(*reason, detail, profile),
    }
}

fn unreachable(reason: UnreachableReason, detail: &str, profile: &Profile) -> String {
    let limit = long(profile.http.total_timeout);
    let what = match reason {
        // It answered a handshake with a text.
        UnreachableReason::Tls if detail.contains("InvalidContentType") => {
            "The receiver does not speak TLS at this port: it is another port, or the URL begins with http://.".to_owned()
        }
        UnreachableReason::Dns => {
            "The name of the host could not be looked up. Is the URL spelled right, and its DNS record there?".to_owned()
        }
        UnreachableReason::AddressForbidden => {
            "The host leads to an address that this server does not call, such as a private one. The operator decides which it may.".to_owned()
        }
        UnreachableReason::Connect => {
            "Nothing took the connection: the receiver is down, or a firewall keeps this server out.".to_owned()
        }
        UnreachableReason::Tls => {
            "The receiver's certificate could not be trusted, or the TLS handshake failed.".to_owned()
        }
        UnreachableReason::Timeout => format!(
            "No complete answer came within {limit}. A receiver should answer first and do its work afterwards."
        ),
        UnreachableReason::Reset => {
            "The connection broke off before the answer was complete.".to_owned()
        }
        UnreachableReason::Protocol => "What came back was not HTTP.".to_owned(),
        UnreachableReason::TooLarge => "The answer was larger than is read.".to_owned(),
        UnreachableReason::Local => {
            "This server could not begin: it ran out of what a connection needs.".to_owned()
        }
        UnreachableReason::Internal => {
            "The request could not be built here: a secret that does not open, or a header that is none. The operator has to look.".to_owned()
        }
    };
    if detail.is_empty() {
        what
    } else {
        format!("{what} ({detail})")
    }
}

/// The answer before the data: how a delivery stands, and what comes next.
pub(crate) fn headline(
    delivery: &Delivery,
    attempts: &[&Attempt],
    profile: Option<&Profile>,
) -> String {
    let made = delivery.attempts;
    let last = attempts.last().map(|attempt| outcome(&attempt.outcome));
    let last = last.unwrap_or_else(|| "nothing".to_owned());
    match delivery.state {
        DeliveryState::Pending if delivery.series.attempts == 0 && made == 0 => {
            "It waits for its first attempt.".to_owned()
        }
        DeliveryState::Pending if delivery.series.attempts == 0 => {
            "It is being sent again by hand.".to_owned()
        }
        DeliveryState::Pending => {
            let of = profile.and_then(|profile| attempts_of(profile.retry(delivery.mode)));
            let of = of.map_or_else(String::new, |of| format!(" of {of}"));
            format!("Attempt {made}{of} failed: {last}. It is tried again.")
        }
        DeliveryState::Delivered if made == 1 => format!("Delivered at the first attempt: {last}."),
        DeliveryState::Delivered => format!("Delivered at attempt {made}: {last}."),
        DeliveryState::Failed(FailReason::Exhausted) if made == 1 => {
            format!("Failed: {last}, and no further attempt follows.")
        }
        DeliveryState::Failed(FailReason::Exhausted) => {
            format!("All {made} attempts failed; the last one ended with {last}.")
        }
        DeliveryState::Failed(FailReason::Stopped) => {
            format!("Failed at once: {last} is not tried again.")
        }
        DeliveryState::Failed(FailReason::EndpointDisabled) => {
            "Not delivered: the endpoint was disabled while it waited.".to_owned()
        }
        DeliveryState::Failed(FailReason::Expired) => {
            "Not delivered: it was to arrive before a time that has passed.".to_owned()
        }
        DeliveryState::Cancelled => "Cancelled by hand: nothing more is sent.".to_owned(),
        DeliveryState::Skipped => {
            "Not sent: its distribution was paused when the event came.".to_owned()
        }
    }
}

/// How many attempts a schedule has; none where that depends on time.
pub(crate) fn attempts_of(schedule: &RetrySchedule) -> Option<usize> {
    match &schedule.steps {
        Steps::Delays { delays, .. } => Some(delays.len() + 1),
        Steps::Offsets(offsets) => Some(offsets.len() + 1),
        Steps::Exponential { .. } => None,
    }
}

/// A schedule in words: `again after 0 s, 1 s and 5 s`.
pub(crate) fn schedule(schedule: &RetrySchedule) -> String {
    let list = |steps: &[Duration]| {
        let words: Vec<String> = steps.iter().map(|step| long(*step)).collect();
        match words.split_last() {
            None => "not tried again".to_owned(),
            Some((last, [])) => format!("tried again after {last}"),
            Some((last, before)) => format!("tried again after {} and {last}", before.join(", ")),
        }
    };
    match &schedule.steps {
        Steps::Delays { delays, .. } => list(delays),
        Steps::Offsets(offsets) => format!("{} from the first attempt", list(offsets)),
        Steps::Exponential {
            base,
            factor,
            cap,
            max_age,
        } => format!(
            "tried again after {}, then {factor} times as long each time, at most {}, for {}",
            long(*base),
            long(*cap),
            long(*max_age)
        ),
    }
}

/// How an endpoint stands, and what to do about it.
pub(crate) fn of_endpoint(
    endpoint: &Endpoint,
    last: Option<&Attempt>,
    profile: &Profile,
) -> String {
    let health = &endpoint.health;
    let ended =
        last.map(|last| format!(" The last attempt ended with {}.", outcome(&last.outcome)));
    let ended = ended.unwrap_or_default();
    let Some(disabled) = health.disabled else {
        if let Some(since) = health.failing_since {
            let rule = match profile.disable {
                DisableRule::Never => String::new(),
                DisableRule::FailedDeliveries(count) => {
                    format!(" After {count} failed deliveries in a row it is disabled.")
                }
                DisableRule::FailingFor(limit) => {
                    format!(" After {} of nothing else it is disabled.", long(limit))
                }
            };
            let since = date(since);
            let in_a_row = match health.consecutive_failures {
                0 => String::new(),
                some => {
                    let failed = counted(u64::from(some), "delivery", "deliveries");
                    format!("; {failed} failed in a row so far")
                }
            };
            return format!("Attempts have failed since {since}{in_a_row}.{ended}{rule}");
        }
        return match last {
            Some(last) if profile.classify.class(&last.outcome) == Class::Ok => format!(
                "Healthy: the last attempt ended with {}.",
                outcome(&last.outcome)
            ),
            Some(last) => format!(
                "Ready: no failure counts against it now. The last attempt ended with {}.",
                outcome(&last.outcome)
            ),
            None => "Ready: nothing was sent to it yet.".to_owned(),
        };
    };
    let at = date(disabled.at);
    // What distributions are called when they are disabled.
    let paused = matches!(endpoint.kind, EndpointKind::Distribution(_));
    let (word, again) = if paused {
        ("Paused", "make it live")
    } else {
        ("Disabled", "enable it")
    };
    let failed = u64::from(health.consecutive_failures);
    match disabled.reason {
        DisableReason::Manual if paused => {
            format!("Paused by hand on {at}. What comes meanwhile is kept, and not sent.")
        }
        DisableReason::Manual => {
            format!("Disabled by hand on {at}. Nothing is sent until it is enabled again.")
        }
        DisableReason::Failures if failed == 1 => {
            format!("{word} on {at} when a delivery failed for good.{ended} Test it, then {again}.")
        }
        DisableReason::Failures => {
            let failed = counted(failed, "delivery", "deliveries");
            format!("{word} on {at} after {failed} failed in a row.{ended} Test it, then {again}.")
        }
        DisableReason::Gone => format!(
            "{word} on {at}: the receiver answered that it is gone.{ended} If that was a mistake, {again}."
        ),
    }
}

/// A time in a sentence, to the second.
fn date(at: Timestamp) -> String {
    let iso = at.to_string();
    let second = iso.get(..19).unwrap_or(&iso);
    format!("{} UTC", second.replace('T', " "))
}

/// `1 endpoint`, `2 endpoints`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{} {many}", grouped(count)),
    }
}

/// A number as people write it, exactly: `12,345`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration as people say it: `250 ms`, `1.5 s`, `5 min`, `2 h 30 min`, `3 d`.
pub(crate) fn long(duration: Duration) -> String {
    let millis = duration.as_millis();
    let secs = duration.as_secs();
    let two = |whole: u64, unit: &str, rest: u64, small: &str| {
        if rest == 0 {
            format!("{whole} {unit}")
        } else {
            format!("{whole} {unit} {rest} {small}")
        }
    };
    match secs {
        _ if millis == 0 && duration.as_micros() > 0 => format!("{} µs", duration.as_micros()),
        0 if millis > 0 => format!("{millis} ms"),
        0..60 if !millis.is_multiple_of(1_000) => {
            format!("{:.1} s", duration.as_secs_f64())
        }
        0..60 => format!("{secs} s"),
        60..3_600 => two(secs / 60, "min", secs % 60, "s"),
        3_600..86_400 => two(secs / 3_600, "h", secs % 3_600 / 60, "min"),
        _ => two(secs / 86_400, "d", secs % 86_400 / 3_600, "h"),
    }
}

/// How long ago, or how long until.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    let short = |duration: Duration| {
        let whole = Duration::from_secs(duration.as_secs());
        let rough = match whole.as_secs() {
            0..60 => whole,
            secs @ 60..3_600 => Duration::from_secs(secs / 60 * 60),
            secs => Duration::from_secs(secs / 3_600 * 3_600),
        };
        long(rough)
    };
    // Of a time that is ahead this is zero.
    match now.since(at) {
        Duration::ZERO if at > now => format!("in {}", short(at.since(now))),
        passed if passed.as_secs() == 0 => "just now".to_owned(),
        passed => format!("{} ago", short(passed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_numbers_are_said_as_people_say_them() {
        let said = |millis| long(Duration::from_millis(millis));
        assert_eq!(said(0), "0 s");
        assert_eq!(said(250), "250 ms");
        assert_eq!(said(1_500), "1.5 s");
        assert_eq!(said(300_000), "5 min");
        assert_eq!(said(9_000_000), "2 h 30 min");
        assert_eq!(said(86_400_000 * 3), "3 d");
        assert_eq!(long(Duration::from_micros(40)), "40 µs");
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(counted(1, "endpoint", "endpoints"), "1 endpoint");
        let now = Timestamp::from_secs(10_000);
        assert_eq!(ago(Timestamp::from_secs(9_875), now), "2 min ago");
        assert_eq!(ago(Timestamp::from_secs(10_090), now), "in 1 min");
        assert_eq!(ago(now, now), "just now");
    }
}
