//! Where schemas are checked: on threads of their own, a few at once, and the slow ones in turns.

use std::sync::Arc;

use postrider_core::endpoint::Endpoint;
use postrider_core::tenant::Tenant;
use postrider_core::{Id, id};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusal::{Refusal, Result};
use postrider_engine::Turns;

/// Quick checks at once.
const QUICK_MAX: usize = 8;
/// Those that one tenant may have, among the quick ones.
const QUICK_EACH: usize = 4;
/// Slow ones at once, one of an application, and one of a tenant: they take a core each.
const SLOW_MAX: usize = 1;

pub(crate) struct Gate {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    applications: Turns<id::Application>,
    tenants: Turns,
    quick_tenants: Turns,
}

/// For whom data is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whose {
    application: Id<id::Application>,
    /// None for what the application has for all of its tenants.
    tenant: Option<Id<id::Tenant>>,
}

impl From<&Endpoint> for Whose {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            application: endpoint.application,
            tenant: Some(endpoint.tenant),
        }
    }
}

impl From<&Tenant> for Whose {
    fn from(tenant: &Tenant) -> Self {
        Self {
            application: tenant.application,
            tenant: Some(tenant.id),
        }
    }
}

impl From<Id<id::Application>> for Whose {
    fn from(application: Id<id::Application>) -> Self {
        Self {
            application,
            tenant: None,
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            quick: Arc::new(Semaphore::new(QUICK_MAX)),
            slow: Arc::new(Semaphore::new(SLOW_MAX)),
            applications: Turns::default(),
            tenants: Turns::default(),
            quick_tenants: Turns::of_several(QUICK_EACH),
        }
    }
}

/// A turn; it is held by the work itself, so that it lasts although whoever asked has gone.
pub(crate) struct Turn(Vec<OwnedSemaphorePermit>);

impl Gate {
    /// First the tenant's turn, then one among all: who asks for much waits behind themselves.
    pub(super) async fn quick(&self, whose: Whose) -> Result<Turn> {
        let mut turn = Vec::with_capacity(2);
        if let Some(tenant) = whose.tenant {
            turn.push(self.quick_tenants.take(tenant).await);
        }
        let permit = self.quick.clone().acquire_owned().await;
        turn.push(permit.map_err(Refusal::internal)?);
        Ok(Turn(turn))
    }

    /// The application's turn, and one of those that are quick: nobody's types wait for what others check.
    pub(super) async fn compiling(&self, application: Id<id::Application>) -> Result<Turn> {
        let turn = self.applications.take(application).await;
        let permit = self.quick.clone().acquire_owned().await;
        Ok(Turn(vec![turn, permit.map_err(Refusal::internal)?]))
    }

    /// As [`Gate::quick`], with the turn of the application between the two.
    pub(crate) async fn slow(&self, whose: Whose) -> Result<Turn> {
        let mut turn = Vec::with_capacity(3);
        if let Some(tenant) = whose.tenant {
            turn.push(self.tenants.take(tenant).await);
        }
        turn.push(self.applications.take(whose.application).await);
        let permit = self.slow.clone().acquire_owned().await;
        turn.push(permit.map_err(Refusal::internal)?);
        Ok(Turn(turn))
    }
}

impl Turn {
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        off_the_workers(move || {
            let done = work();
            drop(self.0);
            done
        })
        .await
    }
}

/// Runs what may take long where no request waits for it.
pub(super) async fn off_the_workers<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(Refusal::internal)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::future::{join, join_all};

    use super::*;

    #[tokio::test]
    async fn who_asks_for_much_waits_behind_themselves() -> Result<()> {
        const MANY: usize = 20;
        let of = |tenant: u128| Whose {
            application: Id::from_u128(1),
            tenant: Some(Id::from_u128(tenant)),
        };
        for is_slow in [false, true] {
            let gate = Gate::default();
            let order = RefCell::new(Vec::new());
            let one = async |tenant: u128| -> Result<()> {
                let turn = match is_slow {
                    true => gate.slow(of(tenant)).await?,
                    false => gate.quick(of(tenant)).await?,
                };
                // Somebody else's turn comes while it lasts, if it is free.
                tokio::task::yield_now().await;
                order.borrow_mut().push(tenant);
                drop(turn);
                Ok(())
            };
            let (many, another) = join(join_all((0..MANY).map(|_| one(1))), one(2)).await;
            many.into_iter().collect::<Result<Vec<()>>>()?;
            another?;
            let order = order.into_inner();
            let before = order.iter().position(|tenant| *tenant == 2);
            assert!(
                before.is_some_and(|before| before <= QUICK_EACH),
                "{order:?}"
            );
        }
        Ok(())
    }

    /// Whether a turn is to be had.
    async fn is_free(turn: impl Future<Output = Result<Turn>>) -> bool {
        let mut turn = std::pin::pin!(turn);
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(turn.as_mut().poll(context).is_ready())
        })
        .await
    }

    #[tokio::test]
    async fn all_together_have_so_many_turns() -> Result<()> {
        let of = |application: u128, tenant: u128| Whose {
            application: Id::from_u128(application),
            tenant: Some(Id::from_u128(tenant)),
        };
        let gate = Gate::default();
        let mut held = Vec::new();
        for number in 0..QUICK_MAX as u128 {
            held.push(gate.quick(of(1, number)).await?);
        }
        assert!(!is_free(gate.quick(of(2, 100))).await);
        assert!(!is_free(gate.compiling(Id::from_u128(2))).await);
        held.pop();
        assert!(is_free(gate.quick(of(2, 100))).await);
        // Of an application one compiles.
        let compiling = gate.compiling(Id::from_u128(1)).await?;
        held.clear();
        assert!(!is_free(gate.compiling(Id::from_u128(1))).await);
        assert!(is_free(gate.compiling(Id::from_u128(2))).await);
        assert!(
            !is_free(gate.slow(of(1, 1))).await,
            "its application's turn"
        );
        drop(compiling);
        let slow = gate.slow(of(1, 1)).await?;
        for other in [of(1, 1), of(1, 2), of(2, 3)] {
            assert!(!is_free(gate.slow(other)).await, "there is one for all");
        }
        drop(slow);
        assert!(is_free(gate.slow(of(2, 3))).await);
        Ok(())
    }
}
