//! Changes are written, told to the engine and forgotten by the caches, in this order and to the end, although
//! whoever asked may go away: what is in memory follows what is stored.

use postrider_core::audit::Actor;
use postrider_core::delivery::Delivery;
use postrider_core::endpoint::Endpoint;
use postrider_core::tenant::{ApiKey, Application, Tenant};
use postrider_core::{Id, id};
use postrider_store::{
    ApplicationChange, DeliveryFilter, EndpointChange, KeyChange, Page, PageRequest, StoreError,
    TenantChange,
};
use tokio::sync::OwnedSemaphorePermit;

use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service};

/// So often what other accounts change too is looked at before a change of it is refused.
const LOOKS_MAX: u32 = 8;

/// Whether a change is to be made anew, of what is there by now: another account was quicker.
pub(crate) fn is_overtaken<T>(made: &Result<T>, look: u32) -> bool {
    let code = made.as_ref().err().map(|refusal| refusal.code);
    code == Some(ErrorCode::ChangedMeanwhile) && look < LOOKS_MAX
}

impl Service {
    /// Runs a change to its end although whoever asked for it may go away: what a change touches in memory
    /// must follow what it wrote.
    ///
    /// # Errors
    /// What the change answers, or `internal` where it panicked.
    pub async fn to_the_end<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        #[expect(
            clippy::disallowed_methods,
            reason = "awaited here, and ends by itself if nobody waits any more"
        )]
        let running = tokio::spawn(change);
        running.await.map_err(Refusal::internal)?
    }

    /// A page of deliveries for somebody, when it is their turn.
    pub(crate) async fn deliveries_for(
        &self,
        who: &Caller,
        filter: DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>> {
        let store = self.0.store.clone();
        let list = async move { store.list_deliveries(filter, page).await };
        self.listed(who, list).await
    }

    /// Lists for somebody, when it is their turn; as with [`Service::counted`].
    pub(crate) async fn listed<T: Send + 'static>(
        &self,
        who: &Caller,
        list: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T> {
        let turn = self.0.lists.take(Id::from_u128(who.holder())).await;
        self.to_the_end(async move {
            let listed = list.await;
            drop(turn);
            Ok(listed?)
        })
        .await
    }

    /// Counts for a tenant, when it is its turn. A count that has begun holds the turn to its end,
    /// though whoever asked may go away.
    pub(crate) async fn counted<T: Send + 'static>(
        &self,
        tenant: Id<id::Tenant>,
        count: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T> {
        let turn = self.0.counts.take(tenant).await;
        self.to_the_end(async move {
            let counted = count.await;
            drop(turn);
            Ok(counted?)
        })
        .await
    }

    /// The turn of an account that changes an application, its event types or a tenant by what it finds there: what was looked
    /// at, as a whole, is what is written over. Of each account one, so that none waits for another's; between two the
    /// transaction sees it ([`is_overtaken`]).
    pub(crate) async fn changing(&self, who: &Caller, what: u128) -> OwnedSemaphorePermit {
        let of_account = what ^ who.holder().rotate_left(64);
        self.0.changing.take(Id::from_u128(of_account)).await
    }

    pub(crate) async fn write_endpoint(
        &self,
        id: Id<id::Endpoint>,
        change: EndpointChange,
        by: Actor,
    ) -> Result<Endpoint> {
        let service = self.clone();
        self.to_the_end(async move {
            let changed = service.store().update_endpoint(id, change, by).await;
            // Behind the write: told before, a cache could read the old state again and keep it. And whatever the answer
            // is: of some nobody knows whether the change was written.
            service.engine().endpoint_changed(id);
            Ok(changed?)
        })
        .await
    }

    pub(crate) async fn erase_endpoint(&self, id: Id<id::Endpoint>, by: Actor) -> Result<()> {
        let service = self.clone();
        self.to_the_end(async move {
            let deleted = service.store().delete_endpoint(id, by).await;
            service.engine().endpoint_changed(id);
            Ok(deleted?)
        })
        .await
    }

    pub(crate) async fn write_application(
        &self,
        id: Id<id::Application>,
        change: ApplicationChange,
        by: Actor,
        turn: OwnedSemaphorePermit,
    ) -> Result<Application> {
        let service = self.clone();
        self.to_the_end(async move {
            let changed = service.store().update_application(id, change, by).await;
            service.0.directory.forget(id);
            service.engine().owner_changed(id);
            drop(turn);
            Ok(changed?)
        })
        .await
    }

    pub(crate) async fn write_tenant(
        &self,
        id: Id<id::Tenant>,
        change: TenantChange,
        by: Actor,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Result<Tenant> {
        let service = self.clone();
        self.to_the_end(async move {
            let changed = service.store().update_tenant(id, change, by).await;
            service.0.directory.forget(id);
            service.engine().owner_changed(id);
            drop(turn);
            Ok(changed?)
        })
        .await
    }

    /// Changes a key and the endpoint that it owns.
    pub(crate) async fn write_key(
        &self,
        id: Id<id::ApiKey>,
        change: KeyChange,
        by: Actor,
    ) -> Result<(ApiKey, Option<Endpoint>)> {
        let service = self.clone();
        self.to_the_end(async move {
            // The change may take the endpoint away, and its lane has to hear of that.
            let before = service.store().key_endpoint(id).await?;
            let written = service.store().update_key(id, change, by).await;
            service.0.directory.forget(id);
            let now = written.as_ref().ok().and_then(|(_, now)| now.as_ref());
            for changed in before.iter().chain(now) {
                service.engine().endpoint_changed(changed.id);
            }
            Ok(written?)
        })
        .await
    }

    /// Deletes a key with its endpoint.
    pub(crate) async fn erase_key(&self, id: Id<id::ApiKey>, by: Actor) -> Result<()> {
        let service = self.clone();
        self.to_the_end(async move {
            // Afterwards nobody could tell which lane was the key's.
            let endpoint = service.store().key_endpoint(id).await?;
            let deleted = service.store().delete_key(id, by).await;
            service.0.directory.forget(id);
            if let Some(endpoint) = endpoint {
                service.engine().endpoint_changed(endpoint.id);
            }
            Ok(deleted?)
        })
        .await
    }
}
