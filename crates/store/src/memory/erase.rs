//! Deleting a tenant or an application in the model.

use postrider_core::audit::Actor;
use postrider_core::id::IdGenerator;
use postrider_core::session::Holder;
use postrider_core::tenant::Scope;
use postrider_core::{Id, id};

use super::State;
use crate::{Entity, Erased, Owner, StoreError, Task, TaskKind};

/// The entry that tells who deleted an owner.
fn deletion(owner: Owner) -> &'static str {
    match owner {
        Owner::Tenant(_) => "tenant.deleted",
        Owner::Application(_) => "application.deleted",
    }
}

impl State {
    pub(super) fn delete_owner(
        &mut self,
        ids: &IdGenerator,
        owner: Owner,
        task: Task,
        by: &Actor,
    ) -> Result<(), StoreError> {
        match owner {
            Owner::Tenant(id) => {
                let before = self.tenants.remove(&id.as_u128());
                let before = before.ok_or(StoreError::not_found(Entity::Tenant))?;
                self.note(ids, by, Some(&before), None);
            }
            Owner::Application(id) => {
                let before = self.applications.remove(&id.as_u128());
                let before = before.ok_or(StoreError::not_found(Entity::Application))?;
                self.note(ids, by, Some(&before), None);
            }
        }
        self.tasks.insert(task.id.as_u128(), task);
        Ok(())
    }

    pub(super) fn erase(&mut self, owner: Owner) -> Erased {
        let is_its = |application: Id<id::Application>, tenant: Option<Id<id::Tenant>>| match owner
        {
            Owner::Tenant(id) => tenant == Some(id),
            Owner::Application(id) => application == id,
        };
        // First all endpoints end, of all tenants: an attempt meanwhile could not be rendered otherwise.
        let mut closed = Vec::new();
        for row in self.endpoints.values_mut() {
            let its = is_its(row.endpoint.application, Some(row.endpoint.tenant));
            if its && !std::mem::replace(&mut row.deleted, true) {
                closed.push(row.endpoint.id);
            }
        }
        if !closed.is_empty() {
            return Erased::closing(closed);
        }
        let before = self.rows();
        let is_tenants = |tenant: Id<id::Tenant>| match owner {
            Owner::Tenant(id) => tenant == id,
            Owner::Application(id) => {
                // The tenants go last, because deliveries know their application only by them.
                let tenant = self.tenants.get(&tenant.as_u128());
                tenant.is_some_and(|tenant| tenant.application == id)
            }
        };
        self.deliveries
            .retain(|_, row| !is_tenants(row.delivery.tenant));
        let deliveries = &self.deliveries;
        self.pending
            .retain(|(_, _, id), ()| deliveries.contains_key(id));
        self.attempts.retain(|id, _| deliveries.contains_key(id));
        self.events
            .retain(|_, row| !is_its(row.application, Some(row.tenant)));
        self.notices
            .retain(|_, row| !is_its(row.application, Some(row.tenant)));
        self.erase_who_comes_in(&is_its);
        self.tasks.retain(|_, task| {
            // The task that erases is among them.
            task.kind == TaskKind::Deletion || !is_its(task.application, task.tenant)
        });
        let deleted = deletion(owner);
        self.audit.retain(|_, entry| {
            let its = entry.application.is_some_and(|id| is_its(id, entry.tenant));
            // That it was deleted and by whom stays, and nothing of what it was.
            if its && entry.action == deleted {
                entry.before = None;
            }
            !its || entry.action == deleted
        });
        self.endpoints
            .retain(|_, row| !is_its(row.endpoint.application, Some(row.endpoint.tenant)));
        if let Owner::Application(id) = owner {
            self.tenants.retain(|_, row| row.application != id);
            self.event_types.retain(|(row, _), _| *row != id.as_u128());
            // A tenant's idempotency keys stay: they go with their time, at most a day later.
            self.idempotency.retain(|(row, _), _| *row != id.as_u128());
        }
        let rows = before - self.rows();
        Erased {
            closed: Vec::new(),
            rows,
            done: rows == 0,
        }
    }

    /// Keys, users, and the visits of both and of customers.
    fn erase_who_comes_in(
        &mut self,
        is_its: &impl Fn(Id<id::Application>, Option<Id<id::Tenant>>) -> bool,
    ) {
        let keys = &mut self.keys;
        keys.retain(|_, key| match key.scope {
            Scope::Root => true,
            Scope::Application(application) => !is_its(application, None),
            Scope::Tenant(application, tenant) => !is_its(application, Some(tenant)),
        });
        // After the keys: what belongs to none that is left goes.
        self.nonces.retain(|(key, _), _| keys.contains_key(key));
        let users = &mut self.users;
        users.retain(|_, user| !user.application.is_some_and(|own| is_its(own, None)));
        self.sessions.retain(|_, row| match &row.holder {
            Holder::Key(key) => keys.contains_key(&key.as_u128()),
            Holder::User(user) => users.contains_key(&user.as_u128()),
            Holder::Portal(of) => !is_its(of.application, Some(of.tenant)),
        });
    }

    fn rows(&self) -> u64 {
        let rows = self.deliveries.len()
            + self.attempts.len()
            + self.events.len()
            + self.notices.len()
            + self.keys.len()
            + self.sessions.len()
            + self.users.len()
            + self.nonces.len()
            + self.tasks.len()
            + self.audit.len()
            + self.endpoints.len()
            + self.tenants.len()
            + self.event_types.len()
            + self.idempotency.len();
        rows as u64
    }

    /// Whether the owner of a key is still there.
    pub(super) fn is_owned(&self, scope: Scope) -> bool {
        let application = |id: Id<id::Application>| self.applications.contains_key(&id.as_u128());
        match scope {
            Scope::Root => true,
            Scope::Application(id) => application(id),
            Scope::Tenant(id, tenant) => {
                application(id) && self.tenants.contains_key(&tenant.as_u128())
            }
        }
    }
}
