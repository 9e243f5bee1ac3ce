//! What a product has put into the database itself.

use std::ops::ControlFlow;

use async_trait::async_trait;
use postrider_core::{Id, id};
use postrider_store::StoreError;
use postrider_store::outbox::{Outbox, OutboxState, Submission, WAITING_COUNTED};

use crate::SqlStore;
use crate::convert::{aborted, reading, time, time_opt};
use crate::read::Reader;
use crate::segments::keys_text;
use crate::sql::{Row, params};
use crate::writer::Tx;

/// From one tenant to the next by the index, however much each of them has.
const SUBMITTERS: &str = "with recursive turn (tenant_id) as (
       select tenant_id from (select tenant_id from outbox where refused is null and tenant_id > ?1 order by tenant_id limit 1) as first
       union all
       select (select o.tenant_id from outbox o where o.refused is null and o.tenant_id > turn.tenant_id order by o.tenant_id limit 1)
       from turn where turn.tenant_id is not null)
     select tenant_id from turn where tenant_id is not null and tenant_id not in (select value from json_each(?2)) limit ?3";

impl Reader {
    pub(crate) fn submitters(
        &self,
        after: Option<Id<id::Tenant>>,
        but: &[Id<id::Tenant>],
        limit: u32,
    ) -> Result<Vec<Id<id::Tenant>>, StoreError> {
        let after = after.map_or(i64::MIN, Id::key);
        let but: Vec<i64> = but.iter().map(|tenant| tenant.key()).collect();
        let mut statement = self
            .connection
            .prepare_cached(SUBMITTERS)
            .map_err(reading)?;
        let row = |row: &Row<'_>| Ok(Id::from_key(row.get(0)?, self.salt));
        let found = statement.query_all(params![after, keys_text(&but), limit], row);
        found.map_err(reading)
    }

    pub(crate) fn submissions(
        &self,
        tenant: Id<id::Tenant>,
        after: i64,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<Submission>, StoreError> {
        // How many of them are not too much at once is known before they are read, and those are read: whoever commits
        // between the two questions may have begun long before.
        let _snapshot = self.connection.snapshot().map_err(reading)?;
        let sql = "select id, octet_length(event) from outbox where tenant_id = ?1 and refused is null and id > ?2 order by id limit ?3";
        let (mut last, mut taken) = (None, 0);
        let mut statement = self.connection.prepare_cached(sql).map_err(reading)?;
        let sized = statement.each(params![tenant.key(), after, limit], |row| {
            last = Some(row.get::<i64>(0)?);
            taken += usize::try_from(row.get::<i64>(1)?).unwrap_or(usize::MAX);
            // The one that goes beyond is taken too: one larger than all the room would never come.
            Ok(if taken < bytes {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        });
        sized.map_err(reading)?;
        let Some(last) = last else {
            return Ok(Vec::new());
        };
        let sql = "select id, key, event, created_at from outbox where tenant_id = ?1 and refused is null and id > ?2 and id <= ?3 order by id";
        let row = |row: &Row<'_>| {
            Ok(Submission {
                number: row.get(0)?,
                tenant,
                key: row.get(1)?,
                event: row.get(2)?,
                created_at: time(row, 3)?,
            })
        };
        let mut statement = self.connection.prepare_cached(sql).map_err(reading)?;
        let rows = statement.query_all([tenant.key(), after, last], row);
        rows.map_err(reading)
    }

    pub(crate) fn outbox_state(&self) -> Result<OutboxState, StoreError> {
        let sql = "select (select count(*) from (select 1 from outbox where refused is null limit ?1) as waiting),
                   (select count(*) from (select 1 from outbox where refused is not null limit ?1) as refused),
                   (select created_at from outbox where refused is null order by id limit 1)";
        let counted = i64::try_from(WAITING_COUNTED).unwrap_or(i64::MAX);
        let mut statement = self.connection.prepare_cached(sql).map_err(reading)?;
        let state = statement.query_row([counted], |row| {
            let count = |column| row.get::<i64>(column).map(i64::unsigned_abs);
            Ok(OutboxState {
                waiting: count(0)?,
                refused: count(1)?,
                oldest: time_opt(row, 2)?,
            })
        });
        state.map_err(reading)
    }
}

impl Tx {
    pub(crate) fn settle_submissions(
        &mut self,
        taken: &[i64],
        refused: &[(i64, String)],
    ) -> Result<(), StoreError> {
        let sql = "delete from outbox where id in (select value from json_each(?1))";
        let settled = self.connection.execute(sql, [keys_text(taken)]);
        settled.map_err(aborted)?;
        for (number, why) in refused {
            let sql = "update outbox set refused = ?2 where id = ?1";
            let statement = self.connection.prepare_cached(sql);
            let noted = statement.and_then(|mut each| each.enqueue(params![number, why]));
            noted.map_err(aborted)?;
        }
        Ok(())
    }
}

#[async_trait]
impl Outbox for SqlStore {
    fn takes_submissions(&self) -> bool {
        // Nobody else has a file of ours open.
        self.held.is_some()
    }

    async fn submitters(
        &self,
        after: Option<Id<id::Tenant>>,
        but: Vec<Id<id::Tenant>>,
        limit: u32,
    ) -> Result<Vec<Id<id::Tenant>>, StoreError> {
        self.points
            .read(move |reader| reader.submitters(after, &but, limit))
            .await
    }

    async fn submissions(
        &self,
        tenant: Id<id::Tenant>,
        after: i64,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<Submission>, StoreError> {
        self.points
            .read(move |reader| reader.submissions(tenant, after, limit, bytes))
            .await
    }

    async fn settle_submissions(
        &self,
        taken: Vec<i64>,
        refused: Vec<(i64, String)>,
    ) -> Result<(), StoreError> {
        self.writer
            .call(move |tx| tx.settle_submissions(&taken, &refused))
            .await
    }

    async fn outbox_state(&self) -> Result<OutboxState, StoreError> {
        self.counts.read(Reader::outbox_state).await
    }
}
