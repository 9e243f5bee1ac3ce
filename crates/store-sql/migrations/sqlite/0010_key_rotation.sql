-- The text that a key had before it was rotated, as long as it opens too.
alter table api_key add column rotated_at integer;
alter table api_key add column previous_hash blob;
alter table api_key add column previous_sealed blob;
alter table api_key add column previous_since integer;
alter table api_key add column previous_until integer;
create index api_key_previous on api_key (previous_hash);
