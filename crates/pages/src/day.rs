//! The last 24 hours in figures, of a tenant or of one endpoint.

use postrider_core::{Id, id};
use postrider_service::{ErrorCode, Refusal, StatisticsAsked};

use crate::Site;
use crate::chart::{Strip, strip};
use crate::door::Visitor;
use crate::outcomes::Ends;
use crate::words::grouped;

pub(crate) struct Day {
    pub(crate) strip: Strip,
    pub(crate) figures: Vec<Figure>,
    /// How its attempts ended.
    pub(crate) ends: Ends,
}

/// A number, and the list that it counts.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) number: String,
    pub(crate) href: String,
}

impl Day {
    /// None where there is more than is counted for a page.
    ///
    /// # Errors
    /// What the service answers.
    pub(crate) async fn of(
        site: &Site,
        visitor: &Visitor,
        tenant: Id<id::Tenant>,
        endpoint: Option<Id<id::Endpoint>>,
    ) -> Result<Option<Self>, Refusal> {
        let asked = StatisticsAsked {
            endpoint,
            period: Some("1h".to_owned()),
            ..StatisticsAsked::default()
        };
        let who = &visitor.visit.caller;
        let statistics = match site.service().statistics(who, tenant, asked).await {
            Ok(statistics) => statistics,
            Err(refusal)
                if matches!(
                    refusal.code,
                    ErrorCode::QueryTooLong | ErrorCode::Overloaded
                ) =>
            {
                return Ok(None);
            }
            Err(refusal) => return Err(refusal),
        };
        let of = endpoint.map_or_else(String::new, |endpoint| format!("&endpoint={endpoint}"));
        let since = statistics.since;
        let list = |status: &str| {
            let list = format_args!("/deliveries?tenant={tenant}{of}&since={since}{status}");
            visitor.href(list)
        };
        let totals = statistics.totals;
        let outcomes = statistics.outcomes.clone().unwrap_or_default();
        let ends = Ends::of(&outcomes, |answer| list(&format!("&answer={answer}")));
        let figure = |name, number, href| Figure { name, number, href };
        Ok(Some(Self {
            strip: strip(&statistics),
            ends,
            figures: vec![
                figure(
                    "delivered in 24 h",
                    grouped(totals.delivered),
                    list("&status=delivered"),
                ),
                figure("failed", grouped(totals.failed), list("&status=failed")),
                figure("waiting", grouped(totals.pending), list("&status=pending")),
                figure(
                    "success rate",
                    rate(totals.delivered, totals.failed),
                    list(""),
                ),
            ],
        }))
    }
}

/// How many of those that ended were delivered.
pub(crate) fn rate(delivered: u64, failed: u64) -> String {
    let ended = delivered + failed;
    if ended == 0 {
        return "–".to_owned();
    }
    // Never rounded up to all.
    let tenths = delivered * 1_000 / ended;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn a_rate_is_never_rounded_up_to_all() {
        assert_eq!(rate(0, 0), "–");
        assert_eq!(rate(9_999, 1), "99.9 %");
        assert_eq!(rate(10, 0), "100.0 %");
        assert_eq!(rate(1, 2), "33.3 %");
    }
}
