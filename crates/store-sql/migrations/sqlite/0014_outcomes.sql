-- How attempts ended, and how long their answers took, counted by segment as deliveries are in tally.
-- Of the segments that are there already nobody counts them: nobody waits for millions of deliveries at the start.
create table outcome_tally (
    segment     integer not null,
    tenant_id   integer not null,
    endpoint_id integer not null,
    event_type  text not null,
    mode        integer not null,
    period      integer not null, -- when the delivery was accepted, in five minutes since 1970
    code        text not null,    -- a status, or why there was no answer
    class       integer not null, -- of how long it took
    attempts    integer not null,
    primary key (segment, tenant_id, endpoint_id, event_type, mode, period, code, class)
) strict, without rowid;

insert into meta (key, value) select 'outcomes_from', coalesce(max(number), 0) + 1 from segment;
