//! The words of a mail: one failure in full, many as a digest.

use std::collections::HashMap;

use postrider_core::notice::{Notice, NoticeClass, NoticeKind};
use postrider_core::tenant::Mode;
use postrider_core::{Id, id};

/// Failures told in full; beyond, their number.
const TOLD_MAX: usize = 20;
/// Characters of a name in a mail.
const NAME_CHARS: usize = 80;

/// What people call endpoints: the name of a key or distribution, or a description.
pub(crate) type Names = HashMap<Id<id::Endpoint>, String>;

/// The endpoints of those that are told in full.
pub(crate) fn told(notices: &[Notice]) -> Vec<Id<id::Endpoint>> {
    let of_kind = |kind| notices.iter().filter(move |notice| notice.kind == kind);
    // Those that `digest` names: the names of others are not looked up.
    let told = of_kind(NoticeKind::EndpointDisabled).take(TOLD_MAX);
    let told = told.chain(of_kind(NoticeKind::DeliveryFailed).take(TOLD_MAX));
    let mut endpoints: Vec<_> = told.map(|notice| notice.endpoint).collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    endpoints
}

/// An endpoint as a person knows it.
fn called(notice: &Notice, names: &Names) -> String {
    let name = names.get(&notice.endpoint).map_or("", String::as_str);
    // The owner of an endpoint chose it: a line end in it could pass for a line of this server's.
    let printable = name.chars().filter(|c| !c.is_control());
    let name: String = printable.take(NAME_CHARS).collect();
    let name = name.trim();
    if name.is_empty() {
        notice.url.clone()
    } else {
        format!("\"{name}\" {}", notice.url)
    }
}

/// A mail without its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) subject: String,
    pub(crate) body: String,
}

fn count(number: usize, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {many}"),
    }
}

/// Tells what is only a test.
fn mark(notice: &Notice) -> &'static str {
    match notice.mode {
        Mode::Live => "",
        Mode::Test => " (test mode)",
    }
}

pub(crate) fn digest(
    tenant: &str,
    class: NoticeClass,
    notices: &[Notice],
    names: &Names,
) -> Digest {
    let of_kind = |kind| notices.iter().filter(move |notice| notice.kind == kind);
    let disabled: Vec<&Notice> = of_kind(NoticeKind::EndpointDisabled).collect();
    let failed: Vec<&Notice> = of_kind(NoticeKind::DeliveryFailed).collect();
    let mut parts = Vec::new();
    if !disabled.is_empty() {
        parts.push(match class {
            NoticeClass::Webhooks => count(disabled.len(), "webhook disabled", "webhooks disabled"),
            NoticeClass::Distributions => count(
                disabled.len(),
                "distribution paused",
                "distributions paused",
            ),
        });
    }
    if !failed.is_empty() {
        parts.push(count(failed.len(), "send-out failed", "send-outs failed"));
    }
    let what = parts.join(", ");
    let mut body = format!("{tenant}: {what}.\n");
    if !disabled.is_empty() {
        body.push_str(match class {
            NoticeClass::Webhooks => {
                "\nDisabled; nothing is sent there until it is enabled again:\n"
            }
            NoticeClass::Distributions => "\nPaused; nothing is sent until it is set live again:\n",
        });
        for notice in disabled.iter().take(TOLD_MAX) {
            body.push_str(&format!(
                "  {}{}\n    at {}, {}\n",
                called(notice, names),
                mark(notice),
                notice.at,
                notice.endpoint
            ));
        }
        if disabled.len() > TOLD_MAX {
            body.push_str(&format!("  and {} more\n", disabled.len() - TOLD_MAX));
        }
    }
    if !failed.is_empty() {
        body.push_str("\nFailed for good; each can be sent again by hand:\n");
        for notice in failed.iter().take(TOLD_MAX) {
            body.push_str(&format!(
                "  {} to {}{}\n    {} after {}, at {}, {}\n",
                notice.event_type,
                called(notice, names),
                mark(notice),
                notice.error,
                count(notice.attempts as usize, "attempt", "attempts"),
                notice.at,
                notice.delivery
            ));
        }
        if failed.len() > TOLD_MAX {
            body.push_str(&format!("  and {} more\n", failed.len() - TOLD_MAX));
        }
    }
    Digest {
        subject: format!("[Postrider] {what} ({tenant})"),
        body,
    }
}

#[cfg(test)]
mod tests {
    use postrider_core::Timestamp;

    use super::*;

    #[test]
    fn a_mail_tells_so_many_one_by_one_and_how_many_more_there_are() {
        let notice = |kind| Notice {
            id: Id::from_u128(1),
            application: Id::from_u128(2),
            tenant: Id::from_u128(3),
            class: NoticeClass::Webhooks,
            kind,
            endpoint: Id::from_u128(4),
            delivery: Id::from_u128(5),
            event_type: "a".into(),
            mode: Mode::Live,
            url: "https://hooks.example/".to_owned(),
            attempts: 3,
            error: "answered 500".to_owned(),
            at: Timestamp::default(),
            in_app: false,
            mail_due: true,
            publish_due: false,
            read_at: None,
        };
        let mut notices = vec![notice(NoticeKind::DeliveryFailed); TOLD_MAX + 5];
        notices.extend(vec![notice(NoticeKind::EndpointDisabled); TOLD_MAX + 7]);
        let mail = digest("ada", NoticeClass::Webhooks, &notices, &Names::new());
        let count = |text: &str| mail.body.matches(text).count();
        assert_eq!(count("hooks.example"), 2 * TOLD_MAX, "{}", mail.body);
        assert_eq!(
            (count("and 5 more"), count("and 7 more")),
            (1, 1),
            "{}",
            mail.body
        );
    }
}
