//! Who gets what: a tenant's endpoints, as the writer knows them, and who is told of failures.
//!
//! Only the writer thread uses it, and every change goes through that thread, so it is never stale: an endpoint that
//! changes is changed here too, and a rollback forgets the tenants that its transaction had to do with. To read all of
//! a tenant's again takes as long as it has endpoints, and everybody waits.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::time::Duration;

use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::filter::{ContentFilter, Subscription};
use postrider_core::health::Health;
use postrider_core::tenant::Mode;
use postrider_store::Ways;
use postrider_store::life::{Address, Candidate, RecipientKind};
use tokio::time::Instant;

use crate::convert::{from_json, from_json_opt, is_unreadable, mode};
use crate::read::health;
use crate::segments::keys_text;
use crate::sql::{Connection, SqlResult, unreadable};

/// Tenants held; beyond, an eighth of them is forgotten and read again as they come.
const TENANTS_MAX: usize = 50_000;
/// Tenants that are read at once before a batch is written.
const READ_AHEAD: usize = 16;
/// With more recipients than these no more are: everybody waits for the batch.
const READ_AHEAD_MAX: usize = 4_096;
/// So much of what is held goes at once where there is no room: to find what is to go takes as long as there are tenants.
const GOES: usize = 8;
/// Bytes that they take, about, the largest one not counted: it would else drive out all others, and they it.
const BYTES_MAX: usize = 256 * 1024 * 1024;

/// After so long it is looked whether an endpoint that did not read does now.
const LOOKED_AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Fanout {
    tenants: HashMap<i64, Audience>,
    /// Of all of them.
    bytes: usize,
    /// Those that the transaction which is open has read or changed: what is known of them may be undone. Of all others
    /// it is true whatever becomes of it, and anybody's refused change would else have everybody's read again.
    open: Vec<i64>,
}

/// All that a tenant has for its events.
#[derive(Debug)]
pub(crate) struct Audience {
    pub(crate) application: i64,
    /// Not the callbacks: those are many, and nothing is asked of them. By their keys, so that one is found.
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) ways: Ways,
    /// What looking at all of them for an event takes, in names that are compared.
    pub(crate) looks: usize,
    /// In memory, about.
    bytes: usize,
    /// Since when it is known with a recipient that does not read: somebody may have mended it.
    damaged: Option<Instant>,
}

impl Audience {
    fn new(application: i64, ways: Ways, mut recipients: Vec<Recipient>) -> Self {
        recipients.sort_unstable_by_key(|recipient| recipient.endpoint);
        recipients.shrink_to_fit();
        Self {
            application,
            looks: recipients.iter().map(Recipient::looks).sum(),
            bytes: size_of::<Self>() + recipients.iter().map(Recipient::bytes).sum::<usize>(),
            damaged: recipients
                .iter()
                .any(|recipient| recipient.is_damaged)
                .then(Instant::now),
            recipients,
            ways,
        }
    }

    fn take_out(&mut self, endpoint: i64) {
        if let Ok(at) = self.place_of(endpoint) {
            let gone = self.recipients.remove(at);
            self.looks -= gone.looks();
            self.bytes -= gone.bytes();
        }
    }

    fn put(&mut self, recipient: Recipient) {
        self.take_out(recipient.endpoint);
        self.looks += recipient.looks();
        self.bytes += recipient.bytes();
        let (Ok(at) | Err(at)) = self.place_of(recipient.endpoint);
        self.recipients.insert(at, recipient);
    }

    fn place_of(&self, endpoint: i64) -> Result<usize, usize> {
        self.recipients
            .binary_search_by_key(&endpoint, |recipient| recipient.endpoint)
    }

    pub(crate) fn recipient(&mut self, endpoint: i64) -> Option<&mut Recipient> {
        let at = self.place_of(endpoint);
        self.recipients.get_mut(at.ok()?)
    }
}

#[derive(Debug)]
pub(crate) struct Recipient {
    pub(crate) endpoint: i64,
    pub(crate) kind: RecipientKind,
    pub(crate) mode: Mode,
    pub(crate) subscription: Subscription,
    pub(crate) filter: Option<ContentFilter>,
    pub(crate) health: Health,
    pub(crate) address: Address,
    /// Something of it does not read.
    is_damaged: bool,
}

impl Recipient {
    /// None of a callback, which is not among them.
    fn of(endpoint: &Endpoint) -> Option<Self> {
        let kind = RecipientKind::from(&endpoint.kind);
        (kind != RecipientKind::Callback).then(|| Self {
            endpoint: endpoint.id.key(),
            kind,
            mode: endpoint.mode,
            subscription: endpoint.subscription.clone(),
            filter: endpoint.filter.clone(),
            health: endpoint.health,
            address: Address::of(&endpoint.url),
            is_damaged: false,
        })
    }

    fn looks(&self) -> usize {
        1 + self.subscription.patterns().len()
    }

    fn bytes(&self) -> usize {
        /// A value takes more in memory than as text.
        const PARSED: usize = 4;
        let patterns = self.subscription.patterns().iter();
        let patterns: usize = patterns.map(|name| size_of::<String>() + name.len()).sum();
        let filter = self.filter.as_ref();
        let filter = filter.map_or(0, |filter| filter.text().len() * PARSED);
        size_of::<Self>() + patterns + filter
    }

    pub(crate) fn candidate(&self, is_named: bool) -> Candidate<'_> {
        Candidate {
            kind: self.kind,
            mode: self.mode,
            subscription: &self.subscription,
            filter: self.filter.as_ref(),
            is_enabled: self.health.is_enabled(),
            is_named,
        }
    }
}

impl Fanout {
    pub(crate) fn clear(&mut self) {
        self.tenants.clear();
        self.bytes = 0;
        self.open.clear();
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.tenants.len()
    }

    /// The transaction is committed.
    pub(crate) fn is_true(&mut self) {
        self.open.clear();
    }

    /// The transaction, or a part of it, is rolled back.
    pub(crate) fn undo(&mut self) {
        for tenant in std::mem::take(&mut self.open) {
            self.forget(tenant);
        }
    }

    pub(crate) fn forget(&mut self, tenant: i64) {
        if let Some(gone) = self.tenants.remove(&tenant) {
            self.bytes -= gone.bytes;
        }
    }

    pub(crate) fn forget_application(&mut self, application: i64) {
        self.tenants
            .retain(|_, audience| audience.application != application);
        self.bytes = self.tenants.values().map(|audience| audience.bytes).sum();
    }

    /// The endpoint is new, or is different now.
    pub(crate) fn put(&mut self, endpoint: &Endpoint) {
        if let Some(recipient) = Recipient::of(endpoint) {
            self.change(endpoint, |audience| audience.put(recipient));
        }
    }

    /// The endpoint is deleted.
    pub(crate) fn take_out(&mut self, endpoint: &Endpoint) {
        self.change(endpoint, |audience| {
            audience.take_out(endpoint.id.key());
        });
    }

    /// Changes what is held of an endpoint's tenant. Callbacks are not among it: a tenant may have very many of them, and
    /// change one with each event.
    fn change(&mut self, endpoint: &Endpoint, change: impl FnOnce(&mut Audience)) {
        if endpoint.kind == EndpointKind::Callback {
            return;
        }
        if let Some(audience) = self.known(endpoint.tenant.key()) {
            let before = audience.bytes;
            change(audience);
            let after = audience.bytes;
            self.bytes = self.bytes - before + after;
        }
    }

    /// The tenant's settings are different.
    pub(crate) fn renew_ways(&mut self, connection: &Connection, tenant: i64) -> SqlResult<()> {
        let Some(audience) = self.known(tenant) else {
            return Ok(());
        };
        for (_, _, ways) in of_tenants(connection, &keys_text(&[tenant]))? {
            audience.ways = ways;
        }
        Ok(())
    }

    /// What is held of a tenant, to be changed by the transaction that is open.
    fn known(&mut self, tenant: i64) -> Option<&mut Audience> {
        let audience = self.tenants.get_mut(&tenant)?;
        self.open.push(tenant);
        Some(audience)
    }

    fn hold(&mut self, tenant: i64, audience: Audience) {
        self.make_room(audience.bytes);
        self.bytes += audience.bytes;
        self.tenants.insert(tenant, audience);
    }

    /// Makes room for one that takes so many bytes.
    fn make_room(&mut self, bytes: usize) {
        if self.tenants.len() >= TENANTS_MAX {
            // Whichever they are: nobody outside knows the order.
            let mut count = 0;
            self.tenants.retain(|_, _| {
                count += 1;
                count % GOES != 0
            });
            self.bytes = self.tenants.values().map(|audience| audience.bytes).sum();
        }
        if self.bytes + bytes <= BYTES_MAX {
            return;
        }
        let sizes = self.tenants.values().map(|audience| audience.bytes);
        let held = sizes.max().unwrap_or_default();
        let largest = bytes.max(held);
        if self.bytes + bytes - largest <= BYTES_MAX {
            return;
        }
        let mut by_size: Vec<(usize, i64)> = self
            .tenants
            .iter()
            .map(|(tenant, audience)| (audience.bytes, *tenant))
            .collect();
        by_size.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
        // It stays, unless the new one is larger.
        for (_, tenant) in by_size.into_iter().skip(usize::from(held > bytes)) {
            if self.bytes + bytes - largest <= BYTES_MAX - BYTES_MAX / GOES {
                return;
            }
            self.forget(tenant);
        }
    }

    /// The tenant's endpoints that are not deleted; none when there is no such tenant.
    pub(crate) fn audience(
        &mut self,
        connection: &Connection,
        tenant: i64,
    ) -> SqlResult<Option<&mut Audience>> {
        let known = self.tenants.get(&tenant);
        let is_old = |known: &Audience| known.damaged.is_some_and(|at| at.elapsed() > LOOKED_AGAIN);
        if known.is_some_and(is_old) {
            self.forget(tenant);
        }
        if !self.tenants.contains_key(&tenant) {
            self.read(connection, &[tenant])?;
        }
        // Mostly it is the one that was asked for just before; and twice is not wrong.
        if self.open.last() != Some(&tenant) {
            self.open.push(tenant);
        }
        Ok(self.tenants.get_mut(&tenant))
    }

    /// Reads those of some tenants that are not held, a few in two questions: after a start none is. Which have very many
    /// endpoints nobody knows before; behind those the others are read as they are needed.
    pub(crate) fn read_ahead(
        &mut self,
        connection: &Connection,
        tenants: impl Iterator<Item = i64>,
    ) -> SqlResult<()> {
        let unknown: BTreeSet<i64> = tenants
            .filter(|tenant| !self.tenants.contains_key(tenant))
            .collect();
        let unknown = Vec::from_iter(unknown);
        let mut read = 0;
        for some in unknown.chunks(READ_AHEAD) {
            match self.read(connection, some) {
                Ok(recipients) => read += recipients,
                // Only who asks for that one is to hear of it.
                Err(error) if is_unreadable(&error) => {}
                Err(error) => return Err(error),
            }
            if read > READ_AHEAD_MAX {
                break;
            }
        }
        Ok(())
    }

    /// Returns how many recipients they have.
    fn read(&mut self, connection: &Connection, tenants: &[i64]) -> SqlResult<usize> {
        let keys = keys_text(tenants);
        let (mut recipients, lacking) = load(connection, &keys)?;
        let count = recipients.values().map(Vec::len).sum();
        // One that is not there is not kept: nobody would forget it when such a tenant is made.
        for (tenant, application, ways) in of_tenants(connection, &keys)? {
            let own = recipients.remove(&tenant).unwrap_or_default();
            let mut audience = Audience::new(application, ways, own);
            if lacking.contains(&tenant) {
                audience.damaged = Some(Instant::now());
            }
            self.hold(tenant, audience);
            // What is read in a transaction may be undone with it.
            self.open.push(tenant);
        }
        Ok(count)
    }
}

/// Tenants with their applications, and how they are told of failures. By the application too: it goes first, while the rows
/// of its tenants are still there.
fn of_tenants(connection: &Connection, keys: &str) -> SqlResult<Vec<(i64, i64, Ways)>> {
    let mut statement = connection.prepare_cached(
        "select t.id, t.application_id, a.settings, t.settings from tenant t
         join application a on a.id = t.application_id where t.id in (select value from json_each(?1))",
    )?;
    statement.query_all([keys], |row| {
        let ways = Ways::new(&from_json(row, 2)?, &from_json(row, 3)?);
        Ok((row.get(0)?, row.get(1)?, ways))
    })
}

/// By the kinds, since the index of those that are not deleted begins with them: the others may be very many.
const LOAD: &str = "select id, mode, subscription, disabled_reason, disabled_at, consecutive_failures, failing_since, kind, content_filter, url, tenant_id
     from endpoint where tenant_id in (select value from json_each(?1)) and kind in (0, 2, 3) and deleted = 0";

type ByTenant = HashMap<i64, Vec<Recipient>>;

/// The endpoints of some tenants, by those; and the tenants of which one was left out.
fn load(connection: &Connection, keys: &str) -> SqlResult<(ByTenant, BTreeSet<i64>)> {
    let mut statement = connection.prepare_cached(LOAD)?;
    let mut found = ByTenant::new();
    let mut lacking = BTreeSet::new();
    statement.each([keys], |row| {
        let endpoint: i64 = row.get(0)?;
        // For whom it would be nobody knows.
        let Some(mode) = if_it_reads(endpoint, mode(row, 1))? else {
            lacking.insert(row.get(10)?);
            return Ok(ControlFlow::Continue(()));
        };
        let filter = if_it_reads(endpoint, from_json_opt::<ContentFilter>(row, 8))?;
        let subscription = if_it_reads(endpoint, from_json(row, 2))?;
        let health = if_it_reads(endpoint, health(row, 3))?;
        let url = if_it_reads(endpoint, row.text(9))?;
        let is_damaged =
            filter.is_none() || subscription.is_none() || health.is_none() || url.is_none();
        let filter = filter.flatten();
        if filter.as_ref().is_some_and(|filter| !filter.is_understood()) {
            tracing::warn!(
                endpoint,
                "an endpoint has a filter that this version does not understand; it gets every event of its types"
            );
        }
        let recipient = Recipient {
            endpoint,
            kind: match row.get(7)? {
                0 => RecipientKind::Registered,
                2 => RecipientKind::Key,
                3 => RecipientKind::Distribution,
                other => return Err(unreadable(7, format!("endpoint kind {other}"))),
            },
            mode,
            subscription: subscription.unwrap_or_else(Subscription::all),
            filter,
            health: health.unwrap_or_default(),
            address: Address::of(url.unwrap_or_default()),
            is_damaged,
        };
        found.entry(row.get(10)?).or_default().push(recipient);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((found, lacking))
}

/// A value of an endpoint, unless it is damaged. Then it is as if the endpoint wanted everything: what is not for it
/// waits with what is until its row reads again, and is sent then; and its tenant's events still go to the others.
fn if_it_reads<T>(endpoint: i64, read: SqlResult<T>) -> SqlResult<Option<T>> {
    match read {
        Err(error) if is_unreadable(&error) => {
            tracing::error!(
                endpoint,
                error = &error as &dyn std::error::Error,
                "an endpoint cannot be read; every event of its tenant waits for it, or none where its mode is what does not read"
            );
            Ok(None)
        }
        read => read.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::open::plan;

    /// Of a tenant that has had a million callbacks, the writer reads the endpoints that there are.
    #[test]
    fn endpoints_that_are_deleted_and_callbacks_are_not_looked_at() -> SqlResult<()> {
        let plan = plan(LOAD, ["[1]"])?;
        assert!(
            plan.contains("INDEX endpoint_listed (tenant_id=? AND kind=?)"),
            "{plan}"
        );
        Ok(())
    }

    /// One that was changed again and again is as one that was read at once.
    #[test]
    fn an_endpoint_is_changed_in_its_place() -> Result<(), Box<dyn std::error::Error>> {
        let recipient = |endpoint, patterns: &[&str]| {
            let patterns = patterns.iter().map(|pattern| (*pattern).to_owned());
            Subscription::new(patterns.collect()).map(|subscription| Recipient {
                endpoint,
                kind: RecipientKind::Registered,
                mode: Mode::Live,
                subscription,
                filter: None,
                health: Health::default(),
                address: Address::of(""),
                is_damaged: false,
            })
        };
        let mut changed = Audience::new(1, Ways::default(), Vec::new());
        for endpoint in [3, 1, 2, 4] {
            changed.put(recipient(endpoint, &["*"])?);
        }
        changed.put(recipient(2, &["a.b", "c.d"])?);
        changed.take_out(4);
        changed.take_out(4);
        let read = vec![
            recipient(2, &["a.b", "c.d"])?,
            recipient(3, &["*"])?,
            recipient(1, &["*"])?,
        ];
        let read = Audience::new(1, Ways::default(), read);
        assert_eq!(format!("{changed:?}"), format!("{read:?}"));
        Ok(())
    }

    /// With one that takes more than all are to take the others would drive it out with each event, and it them.
    #[test]
    fn the_largest_one_stays_and_leaves_the_others_their_room() {
        const MIB: usize = 1_024 * 1_024;
        let mut fanout = Fanout::default();
        let mut held = |tenant, bytes| {
            let audience = Audience {
                bytes,
                ..Audience::new(1, Ways::default(), Vec::new())
            };
            fanout.hold(tenant, audience);
            let mut held: Vec<_> = fanout.tenants.keys().copied().collect();
            held.sort_unstable();
            (held, fanout.bytes / MIB)
        };
        assert_eq!(held(1, 900 * MIB), (vec![1], 900));
        assert_eq!(held(2, 100 * MIB), (vec![1, 2], 1_000));
        assert_eq!(held(3, 100 * MIB), (vec![1, 2, 3], 1_100));
        assert_eq!(held(4, 90 * MIB).1, 1_090, "one of the hundreds went");
        assert_eq!(held(5, 90 * MIB).0.first(), Some(&1));
        assert_eq!(
            held(6, 1_000 * MIB).1,
            1_180,
            "a larger one takes its place"
        );
    }

    /// Whoever has one tenant more than are held does not have all of them read again.
    #[test]
    fn one_more_than_there_is_room_for_drives_out_a_part() {
        let mut fanout = Fanout::default();
        for tenant in 0..=TENANTS_MAX {
            let audience = Audience::new(1, Ways::default(), Vec::new());
            fanout.hold(tenant.try_into().unwrap(), audience);
        }
        assert_eq!(fanout.tenants.len(), TENANTS_MAX - TENANTS_MAX / GOES + 1);
        let bytes: usize = fanout.tenants.values().map(|held| held.bytes).sum();
        assert_eq!(fanout.bytes, bytes);
    }

    #[test]
    fn a_rollback_forgets_those_of_its_transaction_only() {
        let audience = || Audience::new(1, Ways::default(), Vec::new());
        let mut fanout = Fanout::default();
        for tenant in [1, 2] {
            fanout.hold(tenant, audience());
            fanout.open.push(tenant);
        }
        fanout.is_true();
        fanout.open.push(2);
        fanout.undo();
        assert!(fanout.tenants.contains_key(&1) && !fanout.tenants.contains_key(&2));
        fanout.undo();
        assert!(fanout.tenants.contains_key(&1));
    }
}
