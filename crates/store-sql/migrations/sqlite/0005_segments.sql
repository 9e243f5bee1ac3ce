-- Deliveries and events are found by their owner through segments: whatever was accepted between two keys. An index over
-- all owners would dirty a page of its own for nearly each row; here a few pages of the newest segment take many.
create table segment (
    number     integer primary key,
    first_key  integer not null, -- keys of deliveries and events, both inside
    last_key   integer not null, -- of the last segment: everything behind it is in none yet
    size       integer not null, -- deliveries, or events where those are more
    first_at   integer,          -- when its deliveries were accepted
    last_at    integer
) strict;
create unique index segment_first on segment (first_key);

create table delivery_of_tenant (
    segment integer not null,
    owner   integer not null,
    key     integer not null,
    primary key (segment, owner, key)
) strict, without rowid;
create table delivery_of_endpoint (
    segment integer not null,
    owner   integer not null,
    key     integer not null,
    primary key (segment, owner, key)
) strict, without rowid;
create table event_of_tenant (
    segment integer not null,
    owner   integer not null,
    key     integer not null,
    primary key (segment, owner, key)
) strict, without rowid;

-- How many deliveries of a segment are in which state, and the attempts they took.
create table tally (
    segment     integer not null,
    tenant_id   integer not null,
    endpoint_id integer not null,
    event_type  text not null,
    mode        integer not null,
    period      integer not null, -- of five minutes, since 1970
    state       integer not null, -- as of a delivery
    deliveries  integer not null,
    attempts    integer not null,
    primary key (segment, tenant_id, endpoint_id, event_type, mode, period, state)
) strict, without rowid;

drop index event_tenant;
drop index delivery_tenant;
drop index delivery_endpoint;
