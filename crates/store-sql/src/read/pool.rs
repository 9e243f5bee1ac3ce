//! Read-only connections, used on blocking threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postrider_core::id::IdGenerator;
use postrider_store::StoreError;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Reader;
use crate::convert::{is_unreadable, reading};
use crate::postgres::Source as Server;
use crate::sql::{Connection, Failure, SqlError, SqlResult};
use crate::sqlite::open::open_reader;

/// Steps of SQLite's machine between two looks at the clock.
const STEPS_PER_LOOK: i32 = 10_000;

/// Connections for one kind of reading, so that the kinds do not wait for each other.
#[derive(Debug)]
pub(crate) struct Readers {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
}

/// Where connections come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    File(PathBuf),
    Server(Server),
}

impl Source {
    fn open(&self, time_max: Option<Duration>) -> SqlResult<Connection> {
        match self {
            Self::File(file) => Ok(Connection::Sqlite(open_reader(file)?)),
            Self::Server(server) => server.open(time_max),
        }
    }
}

#[derive(Debug)]
struct Shared {
    source: Source,
    ids: Arc<IdGenerator>,
    time_max: Option<Duration>,
    idle: Mutex<Vec<Connection>>,
    /// Until when nobody tries to make a connection, because the last try failed: each may take seconds, and many would wait
    /// for theirs one after the other.
    away_until: Mutex<Option<Instant>>,
}

/// Between two tries to reach a database that is away: who reads meanwhile is refused at once.
const AWAY_PAUSE: Duration = Duration::from_millis(500);

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is there, or a new one.
    fn connection(&self) -> SqlResult<Connection> {
        loop {
            let Some(idle) = self.idle().pop() else {
                return self.open();
            };
            if !idle.is_gone() {
                return Ok(idle);
            }
        }
    }

    fn open(&self) -> SqlResult<Connection> {
        let away = || {
            let until = self.away_until.lock();
            until.unwrap_or_else(PoisonError::into_inner)
        };
        if away().is_some_and(|until| Instant::now() < until) {
            let what = "it was away a moment ago".to_owned();
            return Err(SqlError::Unreachable(what));
        }
        let opened = self.source.open(self.time_max);
        let is_away = opened
            .as_ref()
            .is_err_and(|error| error.failure() == Failure::Unreachable);
        *away() = is_away.then(|| Instant::now() + AWAY_PAUSE);
        opened
    }

    /// Sees that what takes too long is broken off; the other database does so by itself.
    fn limit(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let Connection::Sqlite(connection) = connection else {
            return Ok(());
        };
        // For each question anew: the connection has had others before.
        let until = self.time_max.map(|time_max| Instant::now() + time_max);
        let over = until.map(|until| move || Instant::now() >= until);
        connection
            .progress_handler(STEPS_PER_LOOK, over)
            .map_err(|error| reading(error.into()))
    }
}

impl Readers {
    /// At most `connections`, opened as they are needed. What takes longer than `time_max` is broken off.
    pub(crate) fn new(
        source: Source,
        ids: Arc<IdGenerator>,
        connections: usize,
        time_max: Option<Duration>,
    ) -> Self {
        let shared = Arc::new(Shared {
            source,
            ids,
            time_max,
            idle: Mutex::default(),
            away_until: Mutex::default(),
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
        // The permit goes with the work, which goes on when whoever asked is gone.
        let work = move || {
            let connection = shared.connection().map_err(reading)?;
            // As it is now: ids may have come further ahead since the connection was made.
            let mut reader = Reader::new(connection, shared.ids.salt(), shared.ids.ahead());
            let limited = shared.limit(&mut reader.connection);
            let answer = limited.and_then(|()| query(&reader));
            if !reader.connection.is_gone() {
                shared.idle().push(reader.connection);
            }
            // After the connection is back, so that the next one finds it and opens no other.
            drop(permit);
            answer
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(StoreError::aborted)?
    }

    /// Answers each of some ids, in their order. Where a page is damaged, or it breaks off, they are read one by one, so that
    /// one costs no other.
    pub(crate) async fn read_each<I, T>(
        &self,
        ids: &[I],
        query: impl Fn(&Reader, &[I]) -> SqlResult<Vec<Result<T, StoreError>>> + Send + 'static,
    ) -> Vec<Result<T, StoreError>>
    where
        I: Clone + Send + 'static,
        T: Send + 'static,
    {
        let asked = ids.to_vec();
        let read = self.read(move |reader| {
            let tried = |ids: &[I]| catch_unwind(AssertUnwindSafe(|| query(reader, ids)));
            let alone = |id: &I| match tried(std::slice::from_ref(id)) {
                Ok(Ok(mut found)) => found.swap_remove(0),
                Ok(Err(error)) => Err(reading(error)),
                Err(_) => Err(StoreError::aborted("a read broke off inside the server")),
            };
            match tried(&asked) {
                Ok(Ok(found)) => Ok(found),
                Ok(Err(error)) if !is_unreadable(&error) => Err(reading(error)),
                _ => Ok(asked.iter().map(alone).collect()),
            }
        });
        match read.await {
            Ok(found) => found,
            Err(error) => ids.iter().map(|_| Err(error.copied())).collect(),
        }
    }
}
