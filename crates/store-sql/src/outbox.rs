//! What a product has put into the database itself.

use std::ops::ControlFlow;

use async_trait::async_trait;
use postrider_core::Id;
use postrider_store::StoreError;
use postrider_store::outbox::{Outbox, OutboxState, Submission, WAITING_COUNTED};

use crate::SqlStore;
use crate::convert::{aborted, reading, time, time_opt};
use crate::read::Reader;
use crate::segments::keys_text;
use crate::sql::{Row, params};
use crate::writer::Tx;

impl Reader {
    pub(crate) fn submissions(
        &self,
        after: i64,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<Submission>, StoreError> {
        // How many of them are not too much at once is known before they are read, and those are read: whoever commits
        // between the two questions may have begun long before.
        let _snapshot = self.connection.snapshot().map_err(reading)?;
        let sql = "select id, octet_length(event) from outbox where refused is null and id > ?1 order by id limit ?2";
        let (mut last, mut taken) = (None, 0);
        let mut statement = self.connection.prepare_cached(sql).map_err(reading)?;
        let sized = statement.each(params![after, limit], |row| {
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
        let sql = "select id, tenant_id, key, event, created_at from outbox where refused is null and id > ?1 and id <= ?2 order by id";
        let row = |row: &Row<'_>| {
            Ok(Submission {
                number: row.get(0)?,
                tenant: Id::from_key(row.get(1)?, self.salt),
                key: row.get(2)?,
                event: row.get(3)?,
                created_at: time(row, 4)?,
            })
        };
        let mut statement = self.connection.prepare_cached(sql).map_err(reading)?;
        statement.query_all([after, last], row).map_err(reading)
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
        self.lost.is_some()
    }

    async fn submissions(
        &self,
        after: i64,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<Submission>, StoreError> {
        self.points
            .read(move |reader| reader.submissions(after, limit, bytes))
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
