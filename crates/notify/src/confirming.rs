//! Asks people whether they want mail at all.

use std::collections::HashMap;
use std::time::Duration;

use postrider_core::notice::Confirmation;
use postrider_core::{Id, Timestamp, id};
use postrider_service::Service;
use postrider_service::budget::Grant;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::mail::Mailer;

/// Questions of a tenant in a day.
const TENANT_DAY_MAX: usize = 50;
/// Addresses whose last question is remembered; while they are that many, no other is asked.
const ADDRESSES_MAX: usize = 10_000;
/// An address is asked at most once in this time, whoever wants it.
const ADDRESS_EVERY: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// Characters of a name in a mail.
const NAME_CHARS: usize = 80;

pub(crate) struct Confirming<'a> {
    service: &'a Service,
    mailer: &'a Mailer,
    /// Where people reach this server.
    public_url: Option<&'a str>,
    asked: HashMap<String, Timestamp>,
    /// Questions of a tenant's day, and when it ends.
    days: HashMap<Id<id::Tenant>, (Timestamp, usize)>,
}

impl<'a> Confirming<'a> {
    pub(crate) fn new(
        service: &'a Service,
        mailer: &'a Mailer,
        public_url: Option<&'a str>,
    ) -> Self {
        Self {
            service,
            mailer,
            public_url,
            asked: HashMap::new(),
            days: HashMap::new(),
        }
    }

    /// Runs until `stop`, or nobody can ask any more.
    pub(crate) async fn run(
        mut self,
        mut wanted: mpsc::Receiver<(Confirmation, Grant)>,
        stop: &CancellationToken,
    ) {
        // The place is held until the question is sent: so few of a tenant's wait at once.
        while let Some(Some((confirmation, _place))) = stop.run_until_cancelled(wanted.recv()).await
        {
            if !self.may_ask(&confirmation) {
                tracing::info!(tenant.id = %confirmation.tenant, "a mail address was asked often enough; it is not asked again now");
                continue;
            }
            let digest = self.question(&confirmation);
            let to = [confirmation.to];
            let sending = self.mailer.send(&to, &digest);
            match stop.run_until_cancelled(sending).await {
                None => return,
                Some(Ok(_)) => {}
                // Asked again at once, it could be asked without end: whether it got the mail is not always known.
                Some(Err(error)) => {
                    tracing::warn!(
                        tenant.id = %confirmation.tenant,
                        error = &error as &dyn std::error::Error,
                        "failed to ask whether a mail address wants notifications; its tenant may ask again in an hour"
                    );
                }
            }
        }
    }

    fn may_ask(&mut self, confirmation: &Confirmation) -> bool {
        let now = self.service.steady();
        self.days.retain(|_, (ends, _)| *ends > now);
        self.asked.retain(|_, at| now.since(*at) < ADDRESS_EVERY);
        // The same mailbox, however it is written.
        let address = confirmation.to.to_ascii_lowercase();
        if self.asked.contains_key(&address) || self.asked.len() >= ADDRESSES_MAX {
            return false;
        }
        // Behind the address: one that may not be asked now costs its tenant nothing of the day.
        let day = self.days.entry(confirmation.tenant);
        let (_, count) = day.or_insert((now.plus(DAY), 0));
        if *count >= TENANT_DAY_MAX {
            return false;
        }
        *count += 1;
        self.asked.insert(address, now);
        true
    }

    fn question(&self, confirmation: &Confirmation) -> Digest {
        let application = plain(&confirmation.application_name);
        let tenant = plain(&confirmation.tenant_name);
        let code = confirmation.code.expose();
        let how = match self.public_url {
            Some(url) => format!(
                "If you want that, open this page and confirm:\n\n{}/confirm/{code}\n",
                url.trim_end_matches('/')
            ),
            None => format!("If you want that, give this code to whoever asked you:\n\n{code}\n"),
        };
        Digest {
            subject: format!("Confirm notifications of {application}"),
            body: format!(
                "{tenant} wants to be told at this address when webhooks of {application} fail.\n\n{how}\n\
                 It is good for seven days. If you do not want that, do nothing: no other mail comes.\n"
            ),
        }
    }
}

/// A name without what could look like something else than a name: a line, or a link.
fn plain(name: &str) -> String {
    let fit =
        |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '\'' | '-' | '&' | '(' | ')' | ',');
    let name: String = name.chars().filter(fit).take(NAME_CHARS).collect();
    let name = name.trim();
    if name.is_empty() {
        "somebody".to_owned()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use postrider_core::Secret;
    use postrider_service::budget::Budget;

    use super::*;
    use crate::mailing::tests::Served;

    /// A question of a tenant to the `number`th of its addresses.
    fn question(tenant: u128, number: usize) -> Confirmation {
        Confirmation {
            tenant: Id::from_u128(tenant),
            to: format!("person{number}@tenant{tenant}.example"),
            code: Secret::new("a code"),
            tenant_name: "Ada's shop".to_owned(),
            application_name: "shop".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_tenant_asks_so_many_in_a_day_and_the_next_ones_on_the_next() {
        let served = Served::start().await;
        let confirming = Confirming::new(&served.service, &served.mailer, None);
        let (wanted, questions) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let budget = Budget::new(1);
        let ask = async |tenant: u128, number: usize| {
            let place = budget.open(tenant);
            let asked = wanted.send((question(tenant, number), place)).await;
            assert!(asked.is_ok());
        };
        let asked = async {
            for number in 0..=TENANT_DAY_MAX {
                ask(1, number).await;
            }
            // Another's comes behind them all: when it is there the last of them had its turn.
            ask(2, 0).await;
            let mails = served.mailbox.wait_for(TENANT_DAY_MAX + 1).await;
            let to: Vec<_> = mails.iter().flat_map(|mail| &mail.to).cloned().collect();
            let all = (0..TENANT_DAY_MAX).map(|number| question(1, number).to);
            let expected: Vec<_> = all.chain([question(2, 0).to]).collect();
            assert_eq!(to, expected);
            served.clock.go_on(DAY.as_secs() - 1);
            ask(1, TENANT_DAY_MAX).await;
            ask(3, 0).await;
            served.mailbox.wait_for(TENANT_DAY_MAX + 2).await;
            served.clock.go_on(1);
            ask(1, TENANT_DAY_MAX).await;
            let mails = served.mailbox.wait_for(TENANT_DAY_MAX + 3).await;
            let last = &mails[TENANT_DAY_MAX + 2];
            assert_eq!(last.to, [question(1, TENANT_DAY_MAX).to]);
            stop.cancel();
        };
        tokio::join!(confirming.run(questions, &stop), asked);
    }

    /// Each of them is remembered for an hour: of more nobody could say whether they were asked.
    #[tokio::test]
    async fn no_more_addresses_are_asked_in_an_hour_than_are_remembered() {
        let served = Served::start().await;
        let mut confirming = Confirming::new(&served.service, &served.mailer, None);
        let tenants = ADDRESSES_MAX / TENANT_DAY_MAX;
        for tenant in 0..tenants {
            for number in 0..TENANT_DAY_MAX {
                assert!(confirming.may_ask(&question(tenant as u128, number)));
            }
        }
        assert_eq!(confirming.asked.len(), ADDRESSES_MAX);
        let another = question(u128::MAX, 0);
        assert!(!confirming.may_ask(&another));
        served.clock.go_on(3_600);
        assert!(confirming.may_ask(&another));
    }
}
