-- The text that a key had before it was rotated, as long as it opens too.
alter table api_key add column rotated_at bigint;
alter table api_key add column previous_hash bytea;
alter table api_key add column previous_sealed bytea;
alter table api_key add column previous_since bigint;
alter table api_key add column previous_until bigint;
create index api_key_previous on api_key (previous_hash);
