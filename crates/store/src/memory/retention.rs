//! Forgetting in the model: the whole round in one piece.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use postrider_core::audit::AuditEntry;
use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::{Id, id};

use super::{MemoryStore, State};
use crate::{
    Aged, ContentOf, Entity, Keep, PruneFrom, Pruned, Retention, Rule, StoreError, TaskState,
    UNTOLD_KEPT,
};

impl State {
    /// Whether there was anything.
    fn delete_content(&mut self, of: ContentOf) -> Result<bool, StoreError> {
        let (deliveries, number) = match of {
            ContentOf::Event(id) => {
                let rows = self.deliveries.iter();
                let of_it = rows.filter(|(_, row)| row.delivery.event == id);
                let of_it: Vec<_> = of_it.map(|(id, row)| (*id, row.delivery.state)).collect();
                let event = self.events.get(&id.as_u128());
                event.ok_or(StoreError::not_found(Entity::Event))?;
                if of_it
                    .iter()
                    .any(|(_, state)| *state == DeliveryState::Pending)
                {
                    return Err(StoreError::conflict(Rule::DeliveryPending));
                }
                (
                    of_it.into_iter().map(|(id, _)| id).collect::<Vec<_>>(),
                    None,
                )
            }
            ContentOf::Attempt(delivery, number) => (vec![delivery.as_u128()], Some(number)),
        };
        let (mut found, mut deleted) = (false, false);
        for delivery in deliveries {
            for attempt in self.attempts.get_mut(&delivery).into_iter().flatten() {
                if number.is_none_or(|number| number == attempt.number) {
                    found = true;
                    deleted |= attempt.response.take().is_some();
                }
            }
        }
        match of {
            ContentOf::Attempt(..) if !found => Err(StoreError::not_found(Entity::Delivery)),
            ContentOf::Attempt(..) => Ok(deleted),
            ContentOf::Event(id) => {
                let event = self.events.get_mut(&id.as_u128());
                let event = Arc::make_mut(event.ok_or(StoreError::not_found(Entity::Event))?);
                deleted |= event.has_content();
                (event.data, event.meta) = (Bytes::new(), None);
                Ok(deleted)
            }
        }
    }

    fn prune_events(&mut self, keep: &Keep) -> Pruned {
        let mut pruned = Pruned::default();
        let old: Vec<(u128, _)> = (self.events.iter())
            .map(|(id, event)| (*id, event.created_at, keep.of(event.application)))
            .filter(|(_, created_at, before)| created_at < before)
            .map(|(id, _, before)| (id, before))
            .collect();
        for (event, before) in old {
            let of_it =
                (self.deliveries.values()).filter(|row| row.delivery.event.as_u128() == event);
            let of_it: Vec<&Delivery> = of_it.map(|row| &row.delivery).collect();
            // All or none: of an event whose record went first, replays would take what was sent for missed.
            let is_over = of_it.iter().all(|delivery| {
                let ended_at = delivery.completed_at.unwrap_or(delivery.created_at);
                delivery.state != DeliveryState::Pending && ended_at < before
            });
            if !is_over {
                continue;
            }
            let gone: Vec<u128> = of_it.iter().map(|delivery| delivery.id.as_u128()).collect();
            for delivery in &gone {
                self.deliveries.remove(delivery);
                self.attempts.remove(delivery);
            }
            self.events.remove(&event);
            self.addressees.remove(&event);
            pruned.deliveries += gone.len() as u64;
            pruned.events += 1;
        }
        pruned
    }

    fn prune(&mut self, keep: &Keep, what: Aged) -> Pruned {
        let count = |before: usize, after: usize| (before - after) as u64;
        match what {
            Aged::Events => self.prune_events(keep),
            Aged::Notices => {
                let before = self.notices.len();
                self.notices.retain(|_, notice| {
                    let is_told = !notice.mail_due && !notice.publish_due;
                    let grace = if is_told { Duration::ZERO } else { UNTOLD_KEPT };
                    notice.at.plus(grace) >= keep.of(notice.application)
                });
                Pruned {
                    notices: count(before, self.notices.len()),
                    ..Pruned::default()
                }
            }
            Aged::Tasks => {
                let before = self.tasks.len();
                self.tasks.retain(|_, task| {
                    let is_old =
                        (task.finished_at).is_some_and(|at| at < keep.of(task.application));
                    task.state == TaskState::Running || !is_old
                });
                Pruned {
                    tasks: count(before, self.tasks.len()),
                    ..Pruned::default()
                }
            }
            Aged::Audit => {
                let before = self.audit.len();
                self.audit
                    .retain(|_, entry| entry.actor.at >= keep.audit_before);
                Pruned {
                    audit: count(before, self.audit.len()),
                    ..Pruned::default()
                }
            }
            Aged::Endpoints => {
                let before = self.endpoints.len();
                let deliveries = self.deliveries.values();
                let used: HashSet<_> = deliveries.map(|row| row.delivery.endpoint).collect();
                self.endpoints.retain(|_, row| {
                    let endpoint = &row.endpoint;
                    let is_old = endpoint.updated_at < keep.of(endpoint.application);
                    !(row.deleted && is_old) || used.contains(&endpoint.id)
                });
                Pruned {
                    endpoints: count(before, self.endpoints.len()),
                    ..Pruned::default()
                }
            }
        }
    }
}

#[async_trait]
impl Retention for MemoryStore {
    async fn prune(
        &self,
        keep: &Keep,
        from: PruneFrom,
    ) -> Result<(Pruned, Option<PruneFrom>), StoreError> {
        let pruned = self.state().prune(keep, from.what);
        let next = from.what.next().map(PruneFrom::beginning);
        Ok((pruned, next))
    }

    async fn delete_content(&self, of: ContentOf, entry: AuditEntry) -> Result<(), StoreError> {
        self.before().await?;
        let mut state = self.state();
        // Deleted again it deletes nothing, and the log has one entry.
        if state.delete_content(of)? {
            state.note_of_owner(entry);
        }
        Ok(())
    }

    async fn own_days(&self) -> Result<Vec<(Id<id::Application>, u32)>, StoreError> {
        self.before().await?;
        let state = self.state();
        let own = state.applications.values().filter_map(|application| {
            let days = application.settings.retention_days?;
            Some((application.id, days))
        });
        Ok(own.collect())
    }

    async fn used_bytes(&self) -> Result<u64, StoreError> {
        let state = self.state();
        let bytes = state
            .events
            .values()
            .map(|event| event.payload_bytes() as u64);
        Ok(bytes.sum())
    }
}
