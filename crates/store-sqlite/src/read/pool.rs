//! Read-only connections, used on blocking threads.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postrider_core::id::IdGenerator;
use postrider_store::StoreError;
use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Reader;
use crate::convert::reading;
use crate::open::open_reader;

/// Steps of SQLite's machine between two looks at the clock.
const STEPS_PER_LOOK: i32 = 10_000;

/// Connections for one kind of reading, so that the kinds do not wait for each other.
#[derive(Debug)]
pub(crate) struct Readers {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    file: PathBuf,
    ids: Arc<IdGenerator>,
    time_max: Option<Duration>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    /// At most `connections`, opened as they are needed. What takes longer than `time_max` is broken off.
    pub(crate) fn new(
        file: PathBuf,
        ids: Arc<IdGenerator>,
        connections: usize,
        time_max: Option<Duration>,
    ) -> Self {
        let shared = Arc::new(Shared {
            file,
            ids,
            time_max,
            idle: Mutex::default(),
        });
        Self {
            shared,
            permits: Arc::new(Semaphore::new(connections)),
        }
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(StoreError::aborted)?;
        let shared = self.shared.clone();
        let work = move || {
            let idle = shared
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let connection = idle
                .map_or_else(|| open_reader(&shared.file), Ok)
                .map_err(reading)?;
            let mut reader = Reader::new(connection, shared.ids.salt(), shared.ids.ahead());
            let until = shared.time_max.map(|time_max| Instant::now() + time_max);
            let over = until.map(|until| move || Instant::now() >= until);
            let answer = reader
                .connection
                .progress_handler(STEPS_PER_LOOK, over)
                .map_err(reading)
                .and_then(|()| query(&reader));
            shared
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(reader.connection);
            drop(permit);
            answer
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(StoreError::aborted)?
    }
}
