//! Deleting what an event said before its time, and what was answered: in pieces, since an event may have thousands of
//! deliveries with many attempts each.

use postrider_core::audit::AuditEntry;
use postrider_core::{Id, id};
use postrider_store::{Entity, Rule, StoreError};

use crate::convert::aborted;
use crate::sql::{Optional, SqlResult, params};
use crate::writer::Tx;

/// Answers that one transaction deletes.
const PIECE: i64 = 200;
const DELETE_ANSWER: &str =
    "update attempt set response_headers = null, response_body = null, truncated = ?3
                             where delivery_id = ?1 and number = ?2";

impl Tx {
    /// Deletes what an event said, and notes that. Whether it had said anything.
    pub(crate) fn delete_said(
        &mut self,
        event: Id<id::Event>,
        entry: &AuditEntry,
    ) -> Result<bool, StoreError> {
        let event = self.key(event, Entity::Event)?;
        let had = self.event_has_content(event).map_err(aborted)?;
        let had = had.ok_or(StoreError::not_found(Entity::Event))?;
        let sql = "select exists (select 1 from delivery where event_id = ?1 and state = 0)";
        let waits: SqlResult<bool> = self.connection.query_row(sql, [event], |row| row.get(0));
        if waits.map_err(aborted)? {
            return Err(StoreError::conflict(Rule::DeliveryPending));
        }
        if had {
            self.zeroed(|tx| {
                let nothing: &[u8] = &[];
                let sql = "update event set data = ?2, meta = null where id = ?1";
                tx.connection.execute(sql, params![event, nothing])
            })?;
            self.noted(entry)?;
        }
        Ok(had)
    }

    fn event_has_content(&self, event: i64) -> SqlResult<Option<bool>> {
        let sql = "select octet_length(data) > 0 from event where id = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.query_row([event], |row| row.get(0)).optional()
    }

    /// Deletes what was answered to the next attempts of an event, those of `after` and of deliveries behind it, and notes
    /// that if it is to be. Whether there were any, and the last of their deliveries; none when there are no more.
    pub(crate) fn delete_answers(
        &mut self,
        event: Id<id::Event>,
        after: i64,
        entry: Option<&AuditEntry>,
    ) -> Result<Option<i64>, StoreError> {
        let event = self.key(event, Entity::Event)?;
        let sql = "select a.delivery_id, a.number from delivery d join attempt a on a.delivery_id = d.id
                   where d.event_id = ?1 and d.id >= ?2 and a.response_body is not null order by d.id, a.number limit ?3";
        let found = self.connection.prepare_cached(sql);
        let found = found.and_then(|mut found| {
            found.query_all([event, after, PIECE], |row| {
                Ok((row.get::<i64>(0)?, row.get::<u32>(1)?))
            })
        });
        let found = found.map_err(aborted)?;
        let Some((last, _)) = found.last().copied() else {
            return Ok(None);
        };
        self.zeroed(|tx| {
            let mut delete = tx.connection.prepare_cached(DELETE_ANSWER)?;
            for (delivery, number) in found {
                delete.enqueue(params![delivery, number, false])?;
            }
            Ok(())
        })?;
        match entry {
            Some(entry) => self.noted(entry)?,
            None => self.log_is_to_be_empty(),
        }
        Ok(Some(last))
    }

    /// Deletes what was answered to one attempt, and notes that if there was anything.
    pub(crate) fn delete_answer(
        &mut self,
        delivery: Id<id::Delivery>,
        number: u32,
        entry: &AuditEntry,
    ) -> Result<(), StoreError> {
        let delivery = self.key(delivery, Entity::Delivery)?;
        let sql =
            "select response_body is not null from attempt where delivery_id = ?1 and number = ?2";
        let had: SqlResult<Option<bool>> = self
            .connection
            .query_row(sql, params![delivery, number], |row| row.get(0))
            .optional();
        let had = had.map_err(aborted)?;
        if !had.ok_or(StoreError::not_found(Entity::Delivery))? {
            return Ok(());
        }
        self.zeroed(|tx| {
            tx.connection
                .execute(DELETE_ANSWER, params![delivery, number, false])
        })?;
        self.noted(entry)
    }

    fn noted(&mut self, entry: &AuditEntry) -> Result<(), StoreError> {
        self.log_is_to_be_empty();
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
