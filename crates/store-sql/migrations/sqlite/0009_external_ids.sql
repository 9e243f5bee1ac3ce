-- The product's own ids for endpoints, what it notes about them and its tenants, and what only a vendor's API knows of
-- event types.
alter table tenant add column metadata text not null default '{}'; -- JSON
alter table endpoint add column external_id text;
alter table endpoint add column metadata text not null default '{}'; -- JSON
create unique index endpoint_external on endpoint (tenant_id, mode, external_id) where external_id is not null and deleted = 0;
alter table event_type add column vendor text; -- JSON
