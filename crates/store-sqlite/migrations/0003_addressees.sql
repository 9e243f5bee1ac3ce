-- Whom an event was published to, so that an endpoint can catch up on what it missed; its trace; and how much a task has to do.

alter table event add column addressee integer not null default 0; -- 0 whoever subscribed, 1 distributions, 2 nobody, else an endpoint
alter table event add column traceparent text;
alter table task add column total integer; -- none until it is counted
