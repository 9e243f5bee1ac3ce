-- Whom an event was published to, so that an endpoint can catch up on what it missed; its trace; and how much a task has to do.

-- 0 whoever subscribed, 1 distributions, 2 nobody, else an endpoint; -1 of events from before: nobody knows any more.
alter table event add column addressee integer not null default -1;
alter table event add column traceparent text;
alter table task add column total integer; -- none until it is counted

-- Whether an endpoint has an event is asked for each event that it may have missed.
drop index delivery_event;
create index delivery_event on delivery (event_id, endpoint_id);
