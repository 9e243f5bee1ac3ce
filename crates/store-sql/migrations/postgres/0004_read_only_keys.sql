-- Keys that see and change nothing.
alter table api_key add column read_only bigint not null default 0;
