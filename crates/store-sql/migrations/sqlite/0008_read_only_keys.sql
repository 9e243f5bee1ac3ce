-- Keys that see and change nothing.
alter table api_key add column read_only integer not null default 0;
