//! Deleting what an event said before its time, and what was answered.

use postrider_core::audit::AuditEntry;
use postrider_store::{ContentOf, Entity, Rule, StoreError};

use crate::convert::aborted;
use crate::sql::{Optional, SqlResult, params};
use crate::writer::Tx;

impl Tx {
    pub(crate) fn delete_content(
        &mut self,
        of: ContentOf,
        entry: &AuditEntry,
    ) -> Result<(), StoreError> {
        // Whoever reads the file is not to find it either.
        self.zero_what_is_deleted(true)?;
        let deleted = match of {
            ContentOf::Event(id) => self
                .key(id, Entity::Event)
                .and_then(|key| self.delete_of_event(key)),
            ContentOf::Attempt(id, number) => self
                .key(id, Entity::Delivery)
                .and_then(|key| self.delete_answer(key, number)),
        };
        self.zero_what_is_deleted(false)?;
        if deleted? {
            self.note_of_owner(entry).map_err(aborted)?;
        }
        Ok(())
    }

    /// Whether there was anything.
    fn delete_of_event(&self, event: i64) -> Result<bool, StoreError> {
        let had = self.event_has_content(event).map_err(aborted)?;
        let had = had.ok_or(StoreError::not_found(Entity::Event))?;
        let sql = "select exists (select 1 from delivery where event_id = ?1 and state = 0)";
        let waits: SqlResult<bool> = self.connection.query_row(sql, [event], |row| row.get(0));
        if waits.map_err(aborted)? {
            return Err(StoreError::conflict(Rule::DeliveryPending));
        }
        let nothing: &[u8] = &[];
        let sql = "update event set data = ?2, meta = null where id = ?1";
        let emptied = self.connection.execute(sql, params![event, nothing]);
        emptied.map_err(aborted)?;
        let sql = "update attempt set response_headers = null, response_body = null, truncated = ?2
                   where delivery_id in (select id from delivery where event_id = ?1) and response_body is not null";
        let answers = self.connection.execute(sql, params![event, false]);
        Ok(answers.map_err(aborted)? > 0 || had)
    }

    fn event_has_content(&self, event: i64) -> SqlResult<Option<bool>> {
        let sql = "select octet_length(data) > 0 from event where id = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.query_row([event], |row| row.get(0)).optional()
    }

    fn delete_answer(&self, delivery: i64, number: u32) -> Result<bool, StoreError> {
        let sql =
            "select response_body is not null from attempt where delivery_id = ?1 and number = ?2";
        let had: SqlResult<Option<bool>> = self
            .connection
            .query_row(sql, params![delivery, number], |row| row.get(0))
            .optional();
        let had = had.map_err(aborted)?;
        let had = had.ok_or(StoreError::not_found(Entity::Delivery))?;
        let sql = "update attempt set response_headers = null, response_body = null, truncated = ?3
                   where delivery_id = ?1 and number = ?2";
        let emptied = self
            .connection
            .execute(sql, params![delivery, number, false]);
        emptied.map_err(aborted)?;
        Ok(had)
    }
}
