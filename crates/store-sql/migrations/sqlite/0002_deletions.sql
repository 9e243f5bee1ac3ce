-- Deleting a tenant or an application with all that is its, and keys that end.

alter table task add column kind integer not null default 0; -- 0 replay, 1 deletion; tenant_id is 0 where it is an application's
alter table api_key add column expires_at integer;

-- Whose rows are found without looking at all.
create index endpoint_owner on endpoint (tenant_id);
create index notice_owner on notice (tenant_id);
create index attempt_rendering on attempt (rendering_id) where rendering_id is not null;
