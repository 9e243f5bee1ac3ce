//! Forgetting in the model: the whole round in one piece.

use async_trait::async_trait;
use postrider_core::delivery::{Delivery, DeliveryState};

use super::{MemoryStore, State};
use crate::{Aged, Keep, PruneFrom, Pruned, Retention, StoreError, TaskState};

impl State {
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
                    let waits = notice.mail_due || notice.publish_due;
                    waits || notice.at >= keep.of(notice.application)
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

    async fn used_bytes(&self) -> Result<u64, StoreError> {
        let state = self.state();
        let bytes = state
            .events
            .values()
            .map(|event| event.payload_bytes() as u64);
        Ok(bytes.sum())
    }
}
