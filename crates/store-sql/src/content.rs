//! Deleting what an event said before its time, and what was answered: in pieces, since an event may have thousands of
//! deliveries with many attempts each.

use postrider_core::audit::AuditEntry;
use postrider_core::{Id, id};
use postrider_store::{Entity, Rule, StoreError};

use crate::convert::aborted;
use crate::segments::keys_text;
use crate::sql::{Optional, SqlResult, params};
use crate::writer::Tx;

/// Deliveries whose answers one transaction deletes.
const PIECE: i64 = 100;

impl Tx {
    /// Deletes what an event said. Whether it had said anything.
    pub(crate) fn delete_said(&mut self, event: Id<id::Event>) -> Result<bool, StoreError> {
        let event = self.key(event, Entity::Event)?;
        let had = self.event_has_content(event).map_err(aborted)?;
        let had = had.ok_or(StoreError::not_found(Entity::Event))?;
        let sql = "select exists (select 1 from delivery where event_id = ?1 and state = 0)";
        let waits: SqlResult<bool> = self.connection.query_row(sql, [event], |row| row.get(0));
        if waits.map_err(aborted)? {
            return Err(StoreError::conflict(Rule::DeliveryPending));
        }
        self.zeroed(|tx| {
            let nothing: &[u8] = &[];
            let sql = "update event set data = ?2, meta = null where id = ?1";
            tx.connection.execute(sql, params![event, nothing])
        })?;
        Ok(had)
    }

    fn event_has_content(&self, event: i64) -> SqlResult<Option<bool>> {
        let sql = "select octet_length(data) > 0 from event where id = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.query_row([event], |row| row.get(0)).optional()
    }

    /// Deletes what was answered to the attempts of some deliveries of an event, those behind `after`. How many answers
    /// there were, and the last of these deliveries; none when there are no more.
    pub(crate) fn delete_answers(
        &mut self,
        event: Id<id::Event>,
        after: i64,
    ) -> Result<(usize, Option<i64>), StoreError> {
        let event = self.key(event, Entity::Event)?;
        let sql = "select id from delivery where event_id = ?1 and id > ?2 order by id limit ?3";
        let keys = self.connection.prepare_cached(sql);
        let keys = keys
            .and_then(|mut keys| keys.query_all([event, after, PIECE], |row| row.get::<i64>(0)));
        let keys = keys.map_err(aborted)?;
        let Some(last) = keys.last().copied() else {
            return Ok((0, None));
        };
        let deleted = self.zeroed(|tx| {
            let sql = "update attempt set response_headers = null, response_body = null, truncated = ?2
                       where delivery_id in (select value from json_each(?1)) and response_body is not null";
            tx.connection.execute(sql, params![keys_text(&keys), false])
        })?;
        Ok((deleted, Some(last)))
    }

    /// Deletes what was answered to one attempt. Whether there was anything.
    pub(crate) fn delete_answer(
        &mut self,
        delivery: Id<id::Delivery>,
        number: u32,
    ) -> Result<bool, StoreError> {
        let delivery = self.key(delivery, Entity::Delivery)?;
        let sql =
            "select response_body is not null from attempt where delivery_id = ?1 and number = ?2";
        let had: SqlResult<Option<bool>> = self
            .connection
            .query_row(sql, params![delivery, number], |row| row.get(0))
            .optional();
        let had = had.map_err(aborted)?;
        let had = had.ok_or(StoreError::not_found(Entity::Delivery))?;
        self.zeroed(|tx| {
            let sql =
                "update attempt set response_headers = null, response_body = null, truncated = ?3
                       where delivery_id = ?1 and number = ?2";
            tx.connection.execute(sql, params![delivery, number, false])
        })?;
        Ok(had)
    }

    pub(crate) fn note_deleted(&mut self, entry: &AuditEntry) -> Result<(), StoreError> {
        self.note_of_owner(entry).map_err(aborted)
    }

    /// Whoever reads the file is not to find what is deleted there either.
    fn zeroed<T>(&mut self, delete: impl FnOnce(&Self) -> SqlResult<T>) -> Result<T, StoreError> {
        self.zero_what_is_deleted(true)?;
        let deleted = delete(self);
        self.zero_what_is_deleted(false)?;
        deleted.map_err(aborted)
    }
}
