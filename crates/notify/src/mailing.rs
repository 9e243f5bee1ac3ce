//! Which mail goes out when: failures are gathered for each audience, and nobody waits for anybody else.

use std::collections::HashMap;
use std::time::Duration;

use postrider_core::{Id, Timestamp, id};
use postrider_service::{MailAudience, Refusal, Service};
use tokio_util::sync::CancellationToken;

use crate::TICK;
use crate::digest::{Digest, digest, told};
use crate::mail::{MailError, Mailer};

/// What fails within this time of the first failure goes into the same mail.
const GATHER: Duration = Duration::from_secs(2);
/// Notices that go into one mail.
const NOTICES_MAX: u32 = 5_000;
/// Mails that the people of one tenant get in a day; what fails beyond is in the first digest of the
/// next one.
const MAILS_PER_DAY: usize = 500;
const DAY: Duration = Duration::from_secs(86_400);
/// Mails that wait for recipients whom the mail server put off; the oldest goes first.
const PUT_OFF_MAX: usize = 1_000;
/// How often a recipient who was put off is tried again.
const PUT_OFF_TRIES_MAX: u32 = 12;

/// A mail for those who could not get it with the others. A restart forgets it.
struct PutOff {
    to: Vec<String>,
    digest: Digest,
    next: Timestamp,
    tries: u32,
}

pub(crate) struct Mailing<'a> {
    service: &'a Service,
    mailer: &'a Mailer,
    every: Duration,
    /// When an audience may get its next mail.
    next: HashMap<MailAudience, Timestamp>,
    /// Since when those that may get one are known.
    since: HashMap<MailAudience, Timestamp>,
    /// Mails of a tenant's day, and when it ends.
    days: HashMap<Id<id::Tenant>, (Timestamp, usize)>,
    put_off: Vec<PutOff>,
}

/// Why a turn ended early.
enum Ended {
    Stopped,
    Service(Refusal),
    /// The mail server did not take a mail; the next one would hardly fare better.
    Mail(MailError),
}

impl From<Refusal> for Ended {
    fn from(error: Refusal) -> Self {
        Self::Service(error)
    }
}

impl<'a> Mailing<'a> {
    pub(crate) fn new(service: &'a Service, mailer: &'a Mailer, every: Duration) -> Self {
        Self {
            service,
            mailer,
            every,
            next: HashMap::new(),
            since: HashMap::new(),
            days: HashMap::new(),
            put_off: Vec::new(),
        }
    }

    pub(crate) async fn run(mut self, stop: &CancellationToken) {
        loop {
            match self.turn(stop).await {
                Ok(()) => {}
                Err(Ended::Stopped) => return,
                Err(Ended::Service(error)) => tracing::warn!(
                    error = error.cause(),
                    "failed to read or settle notices; trying again"
                ),
                Err(Ended::Mail(error)) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to send a notification by mail; trying again"
                ),
            }
            let ticked = stop.run_until_cancelled(tokio::time::sleep(TICK)).await;
            if ticked.is_none() {
                return;
            }
        }
    }

    async fn turn(&mut self, stop: &CancellationToken) -> Result<(), Ended> {
        self.send_put_off(stop).await?;
        // When notices came is stored by the wall clock; what waits here, waits by the steady one.
        let (wall, now) = (self.service.now(), self.service.steady());
        self.next.retain(|_, at| *at > now);
        self.days.retain(|_, (ends, _)| *ends > now);
        let audiences = self.service.mail_audiences().await?;
        let known = std::mem::take(&mut self.since);
        let since = |audience| known.get(audience).copied().unwrap_or(now);
        let all = audiences.iter();
        self.since = all
            .map(|(audience, _)| (*audience, since(audience)))
            .collect();
        for (audience, first) in audiences {
            // By the wall clock it may be as long as that was set back.
            let since = self.since.get(&audience).copied().unwrap_or(now);
            let gathering = wall.since(first) < GATHER && now.since(since) < GATHER;
            if gathering || self.next.contains_key(&audience) {
                continue;
            }
            // Before it is sent: one whose mail fails waits like all others, and the next tick goes on behind
            // it.
            self.next.insert(audience, now.plus(self.every));
            match self.mail(audience, stop).await {
                Err(Ended::Mail(error @ MailError::PutOff(_))) => tracing::warn!(
                    tenant.id = %audience.tenant,
                    error = &error as &dyn std::error::Error,
                    "a notification is put off; it is tried again"
                ),
                result => result?,
            }
        }
        Ok(())
    }

    /// Mails what waits for one audience. It stays due until somebody got it, or nobody can.
    async fn mail(
        &mut self,
        audience: MailAudience,
        stop: &CancellationToken,
    ) -> Result<(), Ended> {
        let due = self.service.mail_due(audience, NOTICES_MAX).await?;
        let (notices, recipients) = (due.notices, due.recipients);
        // Those that wait do not read: nothing can be told of them.
        if notices.is_empty() {
            return Ok(());
        }
        if !recipients.is_empty() {
            let now = self.service.steady();
            let day = self.days.entry(audience.tenant);
            let (ends, sent) = day.or_insert((now.plus(DAY), 0));
            if *sent + recipients.len() > MAILS_PER_DAY {
                tracing::warn!(tenant.id = %audience.tenant, "a tenant's people have got as many mails today as they may; the rest waits");
                self.next.insert(audience, *ends);
                return Ok(());
            }
            *sent += recipients.len();
            let names = self.service.names_of_endpoints(told(&notices)).await?;
            let digest = digest(&due.tenant_name, audience.class, &notices, &names);
            let result = self.send(recipients.clone(), digest, 0, stop).await;
            if let (Err(Ended::Mail(_)), Some((_, sent))) =
                (&result, self.days.get_mut(&audience.tenant))
            {
                // Nobody got it: an outage of the mail server costs nothing of the day.
                *sent -= recipients.len();
            }
            result?;
        }
        // Where nobody is to get them, too: they would be due for ever.
        self.service.settle_mail(&notices).await?;
        Ok(())
    }

    /// Tries those again who were put off and whose time has come.
    async fn send_put_off(&mut self, stop: &CancellationToken) -> Result<(), Ended> {
        let now = self.service.steady();
        while let Some(at) = self.put_off.iter().position(|mail| mail.next <= now) {
            let mail = self.put_off.remove(at);
            let (to, digest) = (mail.to.clone(), mail.digest.clone());
            match self.send(to, digest, mail.tries, stop).await {
                Err(Ended::Mail(error)) => {
                    self.keep(mail.to, mail.digest, mail.tries + 1);
                    // Of these alone: the others are not kept waiting by a mailbox that is full.
                    if !matches!(error, MailError::PutOff(_)) {
                        return Err(Ended::Mail(error));
                    }
                }
                result => result?,
            }
        }
        Ok(())
    }

    async fn send(
        &mut self,
        to: Vec<String>,
        digest: Digest,
        tries: u32,
        stop: &CancellationToken,
    ) -> Result<(), Ended> {
        let sending = self.mailer.send(&to, &digest);
        let sent = stop.run_until_cancelled(sending).await;
        let put_off = sent.ok_or(Ended::Stopped)?.map_err(Ended::Mail)?;
        if !put_off.is_empty() {
            self.keep(put_off, digest, tries + 1);
        }
        Ok(())
    }

    fn keep(&mut self, to: Vec<String>, digest: Digest, tries: u32) {
        if tries > PUT_OFF_TRIES_MAX {
            tracing::warn!(addresses = ?to, "the mail server put a notification off for too long; it is given up");
            return;
        }
        if self.put_off.len() >= PUT_OFF_MAX {
            let given_up = self.put_off.remove(0);
            tracing::warn!(addresses = ?given_up.to, "too many mails wait; a notification is given up");
        }
        self.put_off.push(PutOff {
            to,
            digest,
            next: self.service.steady().plus(self.every),
            tries,
        });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use postrider_core::notice::{Channels, NotificationSettings};
    use postrider_core::seal::Sealer;
    use postrider_core::tenant::Tenant;
    use postrider_engine::machine::MachineLimits;
    use postrider_engine::{Clock, Engine, Exchange, ProfileRegistry, Request, Transport};
    use postrider_store::conformance::fixture::{World, by, secs, world};
    use postrider_store::memory::MemoryStore;
    use postrider_store::{
        Catalogue as _, Owner, Store as _, Task, TaskKind, TaskState, Tasks as _,
    };
    use postrider_testkit::Mailbox;

    use super::*;
    use crate::{SmtpOptions, SmtpTls};

    /// Goes on when the test says so: a day of it is over at once.
    #[derive(Default)]
    pub(crate) struct SetClock(AtomicU64);

    impl SetClock {
        pub(crate) fn go_on(&self, secs: u64) {
            self.0.fetch_add(secs, Ordering::SeqCst);
        }
    }

    impl Clock for SetClock {
        fn now(&self) -> Timestamp {
            secs(0).plus(self.elapsed())
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::SeqCst))
        }
    }

    /// Nothing is sent but mail.
    struct Nowhere;

    #[async_trait::async_trait]
    impl Transport for Nowhere {
        async fn send(&self, _: &Request) -> Exchange {
            std::future::pending().await
        }
    }

    /// A server over the model, and a mail server that it knows.
    pub(crate) struct Served {
        pub(crate) service: Service,
        pub(crate) mailer: Mailer,
        pub(crate) mailbox: Mailbox,
        pub(crate) clock: Arc<SetClock>,
        store: Arc<MemoryStore>,
    }

    impl Served {
        pub(crate) async fn start() -> Self {
            let store = Arc::new(MemoryStore::new(1));
            let sealer = Arc::new(Sealer::new(&[7; 32], &[]));
            let clock = Arc::new(SetClock::default());
            let profiles = ProfileRegistry::load(&*store, Vec::new()).await.unwrap();
            let engine = Engine::start(postrider_engine::Options {
                store: store.clone(),
                transport: Arc::new(Nowhere),
                clock: clock.clone(),
                profiles: Arc::new(profiles),
                sealer: sealer.clone(),
                limits: MachineLimits::default(),
                counted_tenants: 0,
                tracer: None,
            });
            let options = postrider_service::Options::default();
            let service = Service::new(store.clone(), engine.await.unwrap(), sealer, options);
            let mailbox = Mailbox::start();
            let mailer = Mailer::new(SmtpOptions {
                host: mailbox.address.ip().to_string(),
                port: mailbox.address.port(),
                tls: SmtpTls::None,
                login: None,
                from: "Postrider <postrider@example.com>".to_owned(),
            });
            Self {
                service,
                mailer: mailer.unwrap(),
                mailbox,
                clock,
                store,
            }
        }
    }

    /// It has the least id, so it comes first.
    #[tokio::test]
    async fn a_tenant_that_was_deleted_keeps_nobody_from_their_mail() {
        const EVERY: u64 = 60;
        let served = Served::start().await;
        let gone = world(&*served.store).await;
        let other = World {
            tenant: served.store.ids().next(served.service.now()),
            ..gone
        };
        let tenant = other.a_tenant(other.tenant, None);
        served
            .store
            .create_tenant(tenant, "standard".into(), by())
            .await
            .unwrap();
        let webhooks = Channels {
            email: true,
            in_app: false,
            emails: vec!["ada@example.com".to_owned()],
        };
        let settings = NotificationSettings {
            webhooks,
            ..NotificationSettings::default()
        };
        for world in [&gone, &other] {
            let settings = settings.clone();
            let change = move |tenant: &mut Tenant| tenant.settings.notifications = settings;
            let change = postrider_store::unconditionally(change);
            let changed = served.store.update_tenant(world.tenant, change, by());
            changed.await.unwrap();
            let endpoint = world.endpoint().await;
            world.fail_one(endpoint, served.service.now()).await;
        }
        let task = Task {
            id: served.store.ids().next(served.service.now()),
            kind: TaskKind::Deletion,
            application: gone.application,
            tenant: Some(gone.tenant),
            request: String::new(),
            state: TaskState::Running,
            total: None,
            done: 0,
            skipped: 0,
            cursor: None,
            created_at: served.service.now(),
            finished_at: None,
        };
        let deleted = served
            .store
            .delete_owner(Owner::Tenant(gone.tenant), task, by());
        deleted.await.unwrap();
        served.clock.go_on(EVERY);
        let every = Duration::from_secs(EVERY);
        let mut mailing = Mailing::new(&served.service, &served.mailer, every);
        assert!(mailing.turn(&CancellationToken::new()).await.is_ok());
        assert_eq!(served.mailbox.mails().len(), 1);
    }

    #[tokio::test]
    async fn what_fails_beyond_the_mails_of_a_day_is_in_the_first_one_of_the_next() {
        const EVERY: u64 = 60;
        const DAY_SECS: u64 = 86_400;
        let served = Served::start().await;
        let world = world(&*served.store).await;
        let endpoint = world.endpoint().await;
        // Two mails are a day's: each goes to half as many, of whom one is there.
        let mut emails = vec!["ada@example.com".to_owned()];
        for number in 1..MAILS_PER_DAY / 2 {
            let nobody = format!("nobody{number}@example.com");
            served.mailbox.refuse(&nobody);
            emails.push(nobody);
        }
        let webhooks = Channels {
            email: true,
            in_app: false,
            emails,
        };
        let settings = NotificationSettings {
            webhooks,
            ..NotificationSettings::default()
        };
        let change = move |tenant: &mut Tenant| tenant.settings.notifications = settings;
        let changed = served.store.update_tenant(
            world.tenant,
            postrider_store::unconditionally(change),
            by(),
        );
        changed.await.unwrap();
        let stop = CancellationToken::new();
        let every = Duration::from_secs(EVERY);
        let mut mailing = Mailing::new(&served.service, &served.mailer, every);
        let mut sent = Vec::new();
        for _ in 0..4 {
            world.fail_one(endpoint, served.service.now()).await;
            served.clock.go_on(EVERY);
            assert!(mailing.turn(&stop).await.is_ok());
            sent.push(served.mailbox.mails().len());
        }
        assert_eq!(sent, [1, 2, 2, 2]);
        // The day began with its first mail.
        served.clock.go_on(DAY_SECS - 3 * EVERY - 1);
        assert!(mailing.turn(&stop).await.is_ok());
        assert_eq!(served.mailbox.mails().len(), 2, "it is not over");
        served.clock.go_on(1);
        assert!(mailing.turn(&stop).await.is_ok());
        let mails = served.mailbox.mails();
        assert_eq!(mails.len(), 3);
        let last = &mails[2].text;
        assert!(last.contains("2 send-outs failed"), "{last}");
    }

    fn mail() -> Digest {
        Digest {
            subject: String::new(),
            body: String::new(),
        }
    }

    #[tokio::test]
    async fn of_too_many_mails_that_were_put_off_the_oldest_is_given_up() {
        let served = Served::start().await;
        let mut mailing = Mailing::new(&served.service, &served.mailer, Duration::from_secs(60));
        for number in 0..=PUT_OFF_MAX {
            mailing.keep(vec![number.to_string()], mail(), 1);
        }
        assert_eq!(mailing.put_off.len(), PUT_OFF_MAX);
        assert_eq!(mailing.put_off[0].to, ["1"]);
        mailing.keep(
            vec!["tried enough".to_owned()],
            mail(),
            PUT_OFF_TRIES_MAX + 1,
        );
        assert_eq!(mailing.put_off[0].to, ["1"], "it is not kept");
    }

    /// What fails together is one mail, and the next one comes after its time, whoever fails again and again.
    #[tokio::test]
    async fn failures_are_gathered_and_mails_have_their_time_between() {
        const EVERY: u64 = 60;
        let served = Served::start().await;
        let world = world(&*served.store).await;
        let endpoint = world.endpoint().await;
        let webhooks = Channels {
            email: true,
            in_app: false,
            emails: vec!["ada@example.com".to_owned()],
        };
        let settings = NotificationSettings {
            webhooks,
            ..NotificationSettings::default()
        };
        let change = move |tenant: &mut Tenant| tenant.settings.notifications = settings;
        let change = postrider_store::unconditionally(change);
        let changed = served.store.update_tenant(world.tenant, change, by());
        changed.await.unwrap();
        let stop = CancellationToken::new();
        let mut mailing = Mailing::new(&served.service, &served.mailer, Duration::from_secs(EVERY));
        let mut sent = Vec::new();
        let gather = GATHER.as_secs();
        for wait in [0, gather - 1, 1, EVERY - 1, 1] {
            served.clock.go_on(wait);
            assert!(mailing.turn(&stop).await.is_ok());
            sent.push(served.mailbox.mails().len());
            world.fail_one(endpoint, served.service.now()).await;
        }
        assert_eq!(sent, [0, 0, 1, 1, 2]);
        let bodies: Vec<_> = served
            .mailbox
            .mails()
            .iter()
            .map(|mail| mail.text.matches("after").count())
            .collect();
        assert_eq!(bodies, [2, 2]);
    }
}
