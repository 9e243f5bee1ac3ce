//! One copy of an event, however many lanes have read it from the store.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use postrider_core::event::Event;
use postrider_core::id;
use postrider_store::DuePage;

use crate::ids::IdMap;

/// Events that nobody holds any more are forgotten when there are twice as many as were held the last time, and not before
/// there are so many.
const LOOK_FROM: usize = 1_024;

/// What was read and is still held. Each lane reads its own pages, and an event may go to thousands of them: with a copy for
/// each a large one would fill the memory.
#[derive(Debug, Default)]
pub(super) struct Copies(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    events: IdMap<id::Event, Weak<Event>>,
    /// How many there were after the last look.
    looked: usize,
}

impl Copies {
    /// The same page, with the events that are held already.
    pub(super) fn share(&self, mut page: DuePage) -> DuePage {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for due in &mut page.rows {
            let known = held.events.get(&due.event.id).and_then(Weak::upgrade);
            match known {
                // Whoever took an event's content away wants it gone from what is sent too.
                Some(known) if known.has_content() == due.event.has_content() => due.event = known,
                _ => {
                    let event = Arc::downgrade(&due.event);
                    held.events.insert(due.event.id, event);
                }
            }
        }
        if held.events.len() > LOOK_FROM.max(2 * held.looked) {
            held.events.retain(|_, event| event.strong_count() > 0);
            held.looked = held.events.len();
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use postrider_store::Store as _;
    use postrider_store::conformance::fixture::{at, world};
    use postrider_store::memory::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn an_event_of_many_lanes_is_held_once_and_forgotten_after_the_last() {
        let store = MemoryStore::new(1);
        let world = world(&store).await;
        world.endpoint().await;
        let published = world.publish(at(1)).await;
        // As a store reads it: with a copy of its own.
        let page = || {
            let due = published.deliveries[0].clone();
            let event = Arc::new(Event::clone(&due.event));
            let rows = vec![postrider_store::DueDelivery { event, ..due }];
            DuePage { rows, next: None }
        };
        let copies = Copies::default();
        let (first, second) = (copies.share(page()), copies.share(page()));
        assert!(Arc::ptr_eq(&first.rows[0].event, &second.rows[0].event));
        let held = Arc::downgrade(&first.rows[0].event);
        drop((first, second));
        assert!(held.upgrade().is_none());
        for _ in 0..=LOOK_FROM {
            let mut page = page();
            let event = Event::clone(&page.rows[0].event);
            let id = store.ids().next(at(2));
            page.rows[0].event = Arc::new(Event { id, ..event });
            copies.share(page);
        }
        let held = copies.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(held.events.len() < 10, "{}", held.events.len());
    }
}
