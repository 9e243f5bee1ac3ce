//! The model keeps its own rules.

postrider_store::store_conformance!(Box::new(postrider_store::memory::MemoryStore::new(7)));
