//! What a store is in, and what holds it: a directory, or a server.

use std::sync::Arc;

use postrider_store::StoreError;

use crate::convert::aborted;
use crate::metrics::Metrics;
use crate::postgres::Ownership;
use crate::sql::{Connection, SqlResult};
use crate::sqlite::checkpoint::Checkpointer;
use crate::sqlite::open::{DataDirectory, Mark, freed_bytes, set_mark, used_bytes};

/// Room on the disk that is kept for events and records.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// Owned by this process until it is dropped.
#[derive(Debug)]
pub(crate) enum Home {
    Directory {
        directory: DataDirectory,
        /// Bytes that the database may have.
        max_bytes: Option<u64>,
    },
    Server(Ownership),
}

impl Home {
    /// Copies the log beside the writer, where there is one.
    pub(crate) fn checkpointer(
        &self,
        writer: &mut Connection,
        metrics: Arc<Metrics>,
    ) -> SqlResult<Option<Checkpointer>> {
        match (self, writer) {
            (Self::Directory { directory, .. }, Connection::Sqlite(writer)) => {
                Ok(Some(Checkpointer::start(&directory.file, writer, metrics)?))
            }
            _ => Ok(None),
        }
    }

    /// Sees that what is written goes where it belongs. Returns a connection where there must be another one.
    pub(crate) fn must_be_there(
        &mut self,
        connection: &Connection,
    ) -> Result<Option<Connection>, StoreError> {
        match self {
            Self::Directory { directory, .. } if directory.is_in_place() => Ok(None),
            Self::Directory { directory, .. } => {
                // SQLite would go on writing into a file that nobody finds any more.
                let detail = format!(
                    "{} was moved or deleted while the server runs; put it back where it was, or stop the server",
                    directory.file.display()
                );
                Err(StoreError::Unavailable { detail })
            }
            Self::Server(ownership) if ownership.is_lost() => {
                let detail = "another server owns the database now".to_owned();
                Err(StoreError::Unavailable { detail })
            }
            Self::Server(ownership) if connection.is_gone() => {
                ownership.again().map(Some).map_err(aborted)
            }
            Self::Server(_) => Ok(None),
        }
    }

    /// Says that this server lives, where somebody waits for its place.
    pub(crate) fn beat(&self, connection: &Connection) -> SqlResult<()> {
        match self {
            Self::Directory { .. } => Ok(()),
            Self::Server(ownership) => ownership.beat(connection),
        }
    }

    /// Whether what is committed must be on a standby too.
    pub(crate) fn needs_standby(&self) -> bool {
        matches!(self, Self::Server(ownership) if ownership.needs_standby)
    }

    pub(crate) fn must_have_reserve(&self, connection: &Connection) -> Result<(), StoreError> {
        // Of a small store the whole reserve would be all there is.
        let reserve = match self {
            Self::Directory { max_bytes, .. } => {
                max_bytes.map_or(RESERVE_BYTES, |max| RESERVE_BYTES.min(max / 8))
            }
            Self::Server(_) => return Ok(()),
        };
        // Where the system does not tell, a full disk shows by a write that fails.
        if self.room(connection)?.is_some_and(|room| room < reserve) {
            return Err(StoreError::Full);
        }
        Ok(())
    }

    /// Bytes that can be stored beside what is there; none where nobody tells.
    pub(crate) fn room(&self, connection: &Connection) -> Result<Option<u64>, StoreError> {
        let (
            Self::Directory {
                directory,
                max_bytes,
            },
            Connection::Sqlite(connection),
        ) = (self, connection)
        else {
            return Ok(None);
        };
        let Some(max) = max_bytes else {
            // What was freed in the file is used before it grows.
            let freed = freed_bytes(connection).map_err(|error| aborted(error.into()))?;
            return Ok(directory.free_bytes().map(|free| free + freed));
        };
        let used = used_bytes(connection).map_err(|error| aborted(error.into()))?;
        Ok(Some(max.saturating_sub(used)))
    }

    /// Bytes that all that is stored takes; zero in a database that others have something in too.
    pub(crate) fn used(&self, connection: &Connection) -> Result<u64, StoreError> {
        let used = connection.sqlite().map(used_bytes);
        let used = used.transpose().map_err(|error| aborted(error.into()))?;
        Ok(used.unwrap_or(0))
    }

    /// After the last write.
    pub(crate) fn close(&self, connection: &Connection) {
        let Some(connection) = connection.sqlite() else {
            return;
        };
        // Without the mark the next start takes this end for an unclean one; nothing is lost by it.
        if let Err(error) = set_mark(connection, Mark::Closed) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to note that the store was closed"
            );
        }
    }
}
