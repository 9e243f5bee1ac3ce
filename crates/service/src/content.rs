//! What an event said, and what was answered, deleted before their time: somebody published what they should not have.

use postrider_core::audit::content_entry;
use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::event::Event;
use postrider_core::tenant::Scope;
use postrider_core::{Id, id};
use postrider_store::{ContentOf, DeliveryFilter, PageRequest};

use crate::deliveries::found;
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service};

/// Deliveries of an event that are read at once.
const PAGE: usize = 100;

impl Service {
    /// Deletes an event's data and `meta`, and what receivers answered to it. What still waits is cancelled, and nothing
    /// of it is sent again. That it was there, with all times and statuses, stays.
    ///
    /// # Errors
    /// `scope_insufficient`, `not_found`; `delivery_pending` while an attempt is under way; or what the store answers.
    pub async fn delete_content(&self, who: &Caller, event: Id<id::Event>) -> Result<()> {
        let event = self.event(who, event).await?;
        must_delete(who)?;
        let by = who.changes(self.now())?;
        let service = self.clone();
        self.to_the_end(async move {
            // Of an event with a delivery that waits the store deletes nothing. Twice: one that was sent again past a closed lane meanwhile has what it said in memory, and its record
            // brings the answer back. After that nobody can send it any more.
            for _ in 0..2 {
                end_all(&service, &event).await?;
                let id = service.store().ids().next(by.at);
                let entry = content_entry(id, by.clone(), &event, None);
                let of = ContentOf::Event(event.id);
                service.store().delete_content(of, entry).await?;
            }
            Ok(())
        })
        .await
    }

    /// Deletes what a receiver answered to one attempt, but for the status.
    ///
    /// # Errors
    /// `scope_insufficient`, `not_found`, or what the store answers.
    pub async fn delete_answer(
        &self,
        who: &Caller,
        delivery: Id<id::Delivery>,
        number: u32,
    ) -> Result<()> {
        let delivery = found(self, who, delivery).await?;
        must_delete(who)?;
        let by = who.changes(self.now())?;
        if number == 0 || number > delivery.attempts {
            return Err(Refusal::not_found("attempt"));
        }
        let event = self.event(who, delivery.event).await?;
        let attempt = Some((delivery.id, number));
        let entry = content_entry(self.store().ids().next(by.at), by, &event, attempt);
        let of = ContentOf::Attempt(delivery.id, number);
        let service = self.clone();
        self.to_the_end(async move { Ok(service.store().delete_content(of, entry).await?) })
            .await
    }
}

/// A customer sees the record of what was sent; only the product takes something out of it.
fn must_delete(who: &Caller) -> Result<()> {
    who.must_own("what is deleted for good")?;
    if matches!(who.scope, Scope::Tenant(..)) {
        return Err(Refusal::new(
            ErrorCode::ScopeInsufficient,
            "a key of the application deletes what its events said",
        ));
    }
    Ok(())
}

/// Cancels what waits of an event, and sees that nothing of it is being sent: the record of an attempt that ends later
/// would bring its answer back.
async fn end_all(service: &Service, event: &Event) -> Result<()> {
    let filter = DeliveryFilter {
        tenant: Some(event.tenant),
        event: Some(event.id),
        ..DeliveryFilter::default()
    };
    let mut page = PageRequest::first(PAGE);
    loop {
        let found = service
            .store()
            .list_deliveries(filter.clone(), page)
            .await?;
        for delivery in &found.rows {
            end(service, delivery).await?;
        }
        match found.next {
            Some(next) => page.cursor = Some(next),
            None => return Ok(()),
        }
    }
}

async fn end(service: &Service, delivery: &Delivery) -> Result<()> {
    let engine = service.engine();
    if delivery.state == DeliveryState::Pending {
        engine.cancel(delivery).await?;
    }
    Ok(engine.must_not_be_under_way(delivery).await?)
}
