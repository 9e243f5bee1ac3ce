-- Which of the events that an endpoint subscribed to it gets, by what they carry.
alter table endpoint add column content_filter text; -- JSON, as it was written
