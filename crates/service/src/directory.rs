//! What nearly every request asks: whose key, whose tenant, which profile, which schema. Held in memory
//! within bounds, and read again when it has changed.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use postrider_core::address::{CUSTOMER_BITS, network};
use postrider_core::delivery::ProfileVersion;
use postrider_core::seal::sha256;
use postrider_core::session::Session;
use postrider_core::tenant::{ApiKey, Application, Scope, Tenant};
use postrider_core::user::User;
use postrider_core::{Id, id};
use postrider_engine::cache::{Cache, Changes, Gather, Read, Stamp};
use postrider_engine::{CurrentProfile, Engine, SharedTurns};
use postrider_store::{Store, StoreError};

use crate::refusal::{ErrorCode, Refusal, Result};
use crate::schemas::{self, Gate, KnownType};

/// Entries held of a kind.
const HELD_MAX: usize = 50_000;
/// Keys that are looked up in the store at once, of the four questions of this kind that it answers: anybody may send any
/// text as a key, and what deliveries wait for is asked beside it.
const LOOKUPS_MAX: usize = 2;
/// The same of sessions, as which anybody may send any text too.
const VISITS_MAX: usize = 1;
/// Of both, whoever asks has so many at once.
const LOOKUPS_EACH: usize = 1;
/// So many bytes of a logo count as one entry.
const LOGO_PART: u64 = 256;
/// Bytes of schemas with all that was compiled of them.
const SCHEMA_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Event types in as much, by what one without patterns takes.
const TYPES_ABOUT: usize = 1_000;

pub(crate) struct Directory {
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    changes: Arc<Changes>,
    keys: Cache<[u8; 32], ApiKey>,
    tenants: Cache<Id<id::Tenant>, Tenant>,
    reads: Gather<Id<id::Tenant>, Result<Tenant, StoreError>>,
    /// What products call their tenants.
    tenant_names: Cache<(Id<id::Application>, String), Id<id::Tenant>>,
    applications: Cache<Id<id::Application>, Application>,
    /// By the profile's version, too: a profile may be replaced while the server runs.
    types: Cache<(Id<id::Application>, ProfileVersion, String), KnownType>,
    /// Keys that events are addressed to, by their public id, each with its endpoint.
    addressees: Cache<String, Addressee>,
    lookups: SharedTurns<Asker>,
    visits: SharedTurns<Asker>,
}

/// Whoever has something looked up: an account, or who is at an address and has not proved yet to be anybody.
pub(crate) struct Asker;

/// Who asks from an address, as far as it is known; of IPv6, all of a customer's are one.
pub(crate) fn stranger(from: Option<IpAddr>) -> Id<Asker> {
    Id::from_u128(from.map_or(0, |from| network(from, CUSTOMER_BITS)))
}

/// A key that an event can be addressed to.
pub(crate) struct Addressee {
    pub(crate) key: ApiKey,
    pub(crate) endpoint: Option<Id<id::Endpoint>>,
}

impl Directory {
    pub(crate) fn new(store: Arc<dyn Store>, engine: Arc<Engine>) -> Self {
        let changes = Arc::new(Changes::default());
        Self {
            store,
            engine,
            keys: Cache::new(HELD_MAX, HELD_MAX as u64, changes.clone()),
            tenants: Cache::new(HELD_MAX, HELD_MAX as u64, changes.clone()),
            reads: Gather::default(),
            tenant_names: Cache::new(HELD_MAX, HELD_MAX as u64, changes.clone()),
            applications: Cache::new(HELD_MAX, HELD_MAX as u64, changes.clone()),
            types: Cache::of_heavy(TYPES_ABOUT, SCHEMA_BYTES_MAX, changes.clone()),
            addressees: Cache::new(HELD_MAX, HELD_MAX as u64, changes.clone()),
            lookups: SharedTurns::new(LOOKUPS_EACH, LOOKUPS_MAX),
            visits: SharedTurns::new(LOOKUPS_EACH, VISITS_MAX),
            changes,
        }
    }

    fn counted<V, E>(&self, thing: u128, read: Result<V, E>, count: u64) -> Result<Read<V>, E> {
        read.map(|value| Read {
            value,
            weight: 1,
            stamp: vec![(thing, count)],
        })
    }

    /// What `read` says, and the counts that it depends on, which only what was read tells: it is read again where
    /// something has changed meanwhile, so as to be no older than they are.
    async fn no_older<V, R: Future<Output = Result<V, StoreError>>>(
        &self,
        read: impl Fn() -> R,
        stamp: impl FnOnce(&V) -> Stamp,
    ) -> Result<Read<V>, StoreError> {
        let so_far = self.changes.so_far();
        let mut value = read().await?;
        let stamp = stamp(&value);
        if self.changes.so_far() != so_far {
            value = read().await?;
        }
        Ok(Read {
            value,
            weight: 1,
            stamp,
        })
    }

    pub(crate) async fn key(
        &self,
        hash: [u8; 32],
        asker: Id<Asker>,
    ) -> Result<Arc<ApiKey>, StoreError> {
        let read = async {
            let _turn = self.lookups.take(asker).await;
            let key = || self.store.key_by_hash(hash);
            self.no_older(key, |key| self.stamp(key)).await
        };
        self.keys.get(hash, read).await
    }

    /// The key with a public id, which anybody may name.
    pub(crate) async fn claimed(
        &self,
        public_id: &str,
        asker: Id<Asker>,
    ) -> Result<ApiKey, StoreError> {
        let _turn = self.lookups.take(asker).await;
        self.store.key_by_public_id(public_id).await
    }

    /// The user with this name, which anybody may send.
    pub(crate) async fn user_called(
        &self,
        name: &str,
        asker: Id<Asker>,
    ) -> Result<User, StoreError> {
        let _turn = self.visits.take(asker).await;
        self.store.user_by_name(name).await
    }

    /// The session with this digest, which anybody may send.
    pub(crate) async fn session(
        &self,
        hash: [u8; 32],
        asker: Id<Asker>,
    ) -> Result<Session, StoreError> {
        let _turn = self.visits.take(asker).await;
        self.store.session_by_hash(hash).await
    }

    /// The counts that a key depends on: its own, and those of its owners, with whom it ends. What is read
    /// after this is not older than it. By its id, whatever texts it had.
    fn stamp(&self, key: &ApiKey) -> Stamp {
        let mut things = vec![key.id.as_u128()];
        match key.scope {
            Scope::Root => {}
            Scope::Application(application) => things.push(application.as_u128()),
            Scope::Tenant(application, tenant) => {
                things.extend([application.as_u128(), tenant.as_u128()]);
            }
        }
        let counted = things.into_iter();
        counted
            .map(|thing| (thing, self.changes.of(thing)))
            .collect()
    }

    pub(crate) async fn tenant(&self, id: Id<id::Tenant>) -> Result<Arc<Tenant>> {
        let read = async {
            // Before it is read: a change in between makes the count old, and what was read is not kept.
            let count = self.changes.of(id.as_u128());
            let read = |ids: Vec<_>| async move { self.store.tenants(&ids).await };
            self.counted(id.as_u128(), self.reads.get(id, read).await, count)
        };
        let tenant = self.tenants.get(id, read).await?;
        // What a deleted application had goes after it: until then its tenants' rows are still there.
        match self.application(tenant.application).await {
            Ok(_) => Ok(tenant),
            Err(refusal) if refusal.code == ErrorCode::NotFound => {
                Err(Refusal::not_found("tenant"))
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Those of some tenants that are there.
    pub(crate) async fn tenants_there(
        &self,
        ids: impl IntoIterator<Item = Id<id::Tenant>>,
    ) -> Result<HashSet<Id<id::Tenant>>> {
        let ids: HashSet<_> = ids.into_iter().collect();
        let mut there = HashSet::with_capacity(ids.len());
        for id in ids {
            match self.tenant(id).await {
                Ok(_) => drop(there.insert(id)),
                Err(refusal) if refusal.code == ErrorCode::NotFound => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(there)
    }

    /// The tenant that the product knows by this id of its own.
    pub(crate) async fn tenant_named(
        &self,
        application: Id<id::Application>,
        external_id: &str,
    ) -> Result<Arc<Tenant>> {
        let store = &self.store;
        let read = async {
            let named = || async {
                let named = store.tenant_by_external_id(application, external_id);
                named.await.map(|tenant| tenant.id)
            };
            let count = |named: &Id<id::Tenant>| {
                let thing = named.as_u128();
                vec![(thing, self.changes.of(thing))]
            };
            self.no_older(named, count).await
        };
        let key = (application, external_id.to_owned());
        let id = self.tenant_names.get(key, read).await?;
        let tenant = self.tenant(*id).await?;
        if tenant.external_id.as_deref() == Some(external_id) {
            return Ok(tenant);
        }
        // Names changed hands while this one was looked up.
        let named = store.tenant_by_external_id(application, external_id);
        self.tenant(named.await?.id).await
    }

    pub(crate) async fn application(&self, id: Id<id::Application>) -> Result<Arc<Application>> {
        let read = async {
            let count = self.changes.of(id.as_u128());
            let read = self.store.application(id).await;
            let read = self.counted(id.as_u128(), read, count)?;
            let logo = read.value.settings.branding.logo.as_ref();
            let weight = 1 + logo.map_or(0, |logo| logo.len() as u64 / LOGO_PART);
            Ok::<_, StoreError>(Read { weight, ..read })
        };
        Ok(self.applications.get(id, read).await?)
    }

    /// The key with this public id.
    pub(crate) async fn addressee(
        &self,
        public_id: &str,
        asker: Id<Asker>,
    ) -> Result<Arc<Addressee>, StoreError> {
        let read = async {
            let _turn = self.lookups.take(asker).await;
            let addressee = || async {
                let key = self.store.key_by_public_id(public_id).await?;
                let endpoint = self.store.key_endpoint(key.id).await?;
                Ok(Addressee {
                    key,
                    endpoint: endpoint.map(|endpoint| endpoint.id),
                })
            };
            let stamp = |addressee: &Addressee| self.stamp(&addressee.key);
            self.no_older(addressee, stamp).await
        };
        self.addressees.get(public_id.to_owned(), read).await
    }

    /// What the application, or its profile, says of an event type; made once, however many ask, in the application's turn.
    pub(crate) async fn event_type(
        &self,
        gate: &Gate,
        application: Id<id::Application>,
        name: &str,
    ) -> Result<Arc<KnownType>> {
        let thing = of_type(application, name);
        let current = self.profile(application).await?;
        let read = async {
            let stamp = vec![
                (thing, self.changes.of(thing)),
                (
                    application.as_u128(),
                    self.changes.of(application.as_u128()),
                ),
            ];
            let own = self.store.event_type(application, name).await?;
            let profile = &current.profile;
            let value = schemas::known_type(gate, application, profile, name, own).await?;
            Ok::<_, Refusal>(Read {
                weight: value.weight() + name.len() as u64,
                value,
                stamp,
            })
        };
        let key = (application, current.version, name.to_owned());
        self.types.get(key, read).await
    }

    /// The profile that new endpoints and events of an application get.
    pub(crate) async fn profile(&self, application: Id<id::Application>) -> Result<CurrentProfile> {
        let application = self.application(application).await?;
        self.engine.profiles().current(&application.profile).ok_or_else(|| {
            Refusal::internal(format!(
                "the application {} uses the profile {:?}, which this server does not have; configure profiles.directory",
                application.id, application.profile
            ))
        })
    }

    pub(crate) fn forget_event_type(&self, application: Id<id::Application>, name: &str) {
        self.changes.note(of_type(application, name));
    }

    /// Everything may have changed.
    pub(crate) fn forget_all(&self) {
        self.changes.note_all();
    }

    /// A tenant or an application has changed.
    pub(crate) fn forget<K>(&self, thing: Id<K>) {
        self.changes.note(thing.as_u128());
    }
}

fn of_hash(hash: &[u8; 32]) -> u128 {
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    u128::from_be_bytes(half)
}

fn of_type(application: Id<id::Application>, name: &str) -> u128 {
    // Two that fall together are only read again when either changes.
    application.as_u128() ^ of_hash(&sha256(name.as_bytes()))
}
