-- How attempts ended, and how long their answers took, counted by segment as deliveries are in tally.
-- Of the segments that are there already nobody counts them: nobody waits for millions of deliveries at the start.
create table outcome_tally (
    segment     bigint not null,
    tenant_id   bigint not null,
    endpoint_id bigint not null,
    event_type  text not null,
    mode        bigint not null,
    period      bigint not null, -- when the delivery was accepted, in five minutes since 1970
    code        text not null,    -- a status, or why there was no answer
    class       bigint not null, -- of how long it took
    attempts    bigint not null,
    primary key (segment, tenant_id, endpoint_id, event_type, mode, period, code, class)
);
alter table outcome_tally set (fillfactor = 80);

insert into meta (key, value) select 'outcomes_from', coalesce(max(number), 0) + 1 from segment;
