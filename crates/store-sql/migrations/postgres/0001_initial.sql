-- As SQLite's tables, which the migrations beside these make; every number is a bigint, so that one statement serves both.
-- Times are microseconds since 1970. An id column is the upper half of the id (see core/src/id.rs); it grows with time, so
-- inserting appends. No foreign keys: they would lock a row of the other table for each row of a hot one.

create table meta (
    key   text primary key,
    value bigint not null
);

create table application (
    id         bigint primary key,
    name       text not null unique,
    profile    text not null,
    settings   text not null, -- JSON
    created_at bigint not null,
    updated_at bigint not null
);

create table tenant (
    id             bigint primary key,
    application_id bigint not null,
    name           text not null,
    external_id    text,
    live_secret    bytea not null, -- sealed, like the next
    live_since     bigint not null,
    test_secret    bytea not null,
    test_since     bigint not null,
    settings       text not null, -- JSON
    created_at     bigint not null,
    updated_at     bigint not null
);
create unique index tenant_external on tenant (application_id, external_id) where external_id is not null;
create index tenant_application on tenant (application_id, id);

create table event_type (
    application_id bigint not null,
    name           text collate "C" not null,
    description    text,
    schema         text, -- JSON, as it was written
    example        text, -- JSON, as it was written
    created_at     bigint not null,
    primary key (application_id, name)
);

create table endpoint (
    id                   bigint primary key,
    application_id       bigint not null,
    tenant_id            bigint not null,
    kind                 bigint not null, -- 0 registered, 1 callback, 2 an API key's, 3 a distribution's
    key_id               bigint,          -- of kind 2
    distribution         text,             -- of kind 3: JSON
    deleted              bigint not null default 0,
    url                  text not null,
    description          text,
    subscription         text not null,    -- JSON list of patterns
    mode                 bigint not null, -- 0 live, 1 test
    headers              text not null,    -- JSON list of pairs
    rate_limit           bigint,
    ordering             bigint not null, -- 0 none, 1 endpoint, 2 key
    form                 bigint not null default 0,
    disabled_reason      text,
    disabled_at          bigint,
    consecutive_failures bigint not null default 0,
    failing_since        bigint,
    created_at           bigint not null,
    updated_at           bigint not null
);
create index endpoint_listed on endpoint (tenant_id, kind, id, mode) where deleted = 0;
create unique index endpoint_callback on endpoint (tenant_id, mode, url) where kind = 1 and deleted = 0;
create index endpoint_owner on endpoint (tenant_id);
create unique index endpoint_key on endpoint (key_id) where kind = 2 and deleted = 0;

create table endpoint_secret (
    endpoint_id bigint not null,
    position    bigint not null, -- 0 is the newest
    sealed      bytea not null,
    created_at  bigint not null,
    expires_at  bigint,
    primary key (endpoint_id, position)
);

create table event (
    id             bigint primary key,
    application_id bigint not null,
    tenant_id      bigint not null,
    type           text not null,
    mode           bigint not null,
    occurred_at    bigint not null,
    created_at     bigint not null,
    ordering_key   text,
    deliver_before bigint,
    data           bytea not null, -- as published, byte for byte
    meta           bytea,
    addressee      bigint not null default -1, -- 0 whoever subscribed, 1 distributions, 2 nobody, else an endpoint
    traceparent    text
);

create table delivery (
    id                bigint primary key,
    event_id          bigint not null,
    endpoint_id       bigint not null,
    tenant_id         bigint not null,
    event_type        text not null,
    mode              bigint not null, -- 0 live, 1 test
    profile           bigint not null,
    state             bigint not null, -- 0 pending, 1 delivered, 2 failed, 3 cancelled
    reason            bigint,          -- of failed: 0 exhausted, 1 stopped, 2 endpoint disabled, 3 expired
    attempts          bigint not null,
    due_at            bigint not null,
    sequence          bigint not null, -- place in the lane
    series_attempts   bigint not null,
    series_started_at bigint,
    series_single     bigint not null,
    created_at        bigint not null,
    completed_at      bigint
);
create index delivery_event on delivery (event_id, endpoint_id);
create index delivery_pending on delivery (endpoint_id, sequence, id) where state = 0;
create index delivery_unsuccessful on delivery (tenant_id, id) where state >= 2;
create index delivery_endpoint_unsuccessful on delivery (endpoint_id, id) where state >= 2;

create table attempt (
    delivery_id      bigint not null,
    number           bigint not null,
    started_at       bigint not null,
    ended_at         bigint not null,
    url              text not null,
    request_headers  text not null, -- "name: value" lines
    status           bigint,
    retry_after      bigint,
    reason           text,          -- why there was no answer
    detail           text,
    response_headers text,
    response_body    bytea,
    truncated        bigint not null,
    dns_us           bigint,
    connect_us       bigint,
    tls_us           bigint,
    first_byte_us    bigint,
    total_us         bigint not null,
    manual           bigint not null,
    region           text,          -- where it left from
    local_address    text,
    rendering_id     bigint,
    primary key (delivery_id, number)
);
create index attempt_rendering on attempt (rendering_id) where rendering_id is not null;

-- What of an endpoint made a body; the same text once.
create table rendering (
    id   bigint generated by default as identity primary key,
    text text not null -- JSON
);
-- A tree has no room for long texts. One writer looks before it inserts: no two are the same.
create index rendering_text on rendering using hash (text);

create table idempotency (
    application_id bigint not null,
    key            text not null,
    event_id       bigint not null,
    fingerprint    bytea not null,
    deliveries     bigint not null,
    at             bigint not null,
    primary key (application_id, key)
);
create index idempotency_at on idempotency (at);

create table api_key (
    id             bigint primary key,
    name           text not null,
    application_id bigint,
    tenant_id      bigint,
    mode           bigint not null,
    secret_hash    bytea not null unique,
    public_id      text unique,
    sealed_secret  bytea,
    allowed_ips    text not null, -- JSON list of networks
    disabled_at    bigint,
    created_at     bigint not null,
    expires_at     bigint
);
create index api_key_tenant on api_key (tenant_id, id);
create index api_key_application on api_key (application_id, id);

-- Who changed what.
create table audit (
    id             bigint primary key,
    at             bigint not null,
    application_id bigint,
    tenant_id      bigint,
    key_id         bigint,       -- of the actor; none is the server itself
    actor          text not null,
    action         text not null,
    subject        text not null,
    before         text,          -- JSON, without secrets
    after          text
);
create index audit_tenant on audit (tenant_id, id);
create index audit_application on audit (application_id, id);

-- What somebody is to be told.
create table notice (
    id             bigint primary key,
    application_id bigint not null,
    tenant_id      bigint not null,
    class          bigint not null, -- 0 webhooks, 1 distributions
    kind           bigint not null, -- 0 delivery failed, 1 endpoint disabled
    endpoint_id    bigint not null,
    delivery_id    bigint not null,
    event_type     text not null,
    mode           bigint not null, -- 0 live, 1 test
    url            text not null,
    attempts       bigint not null,
    error          text not null,
    at             bigint not null,
    in_app         bigint not null,
    mail_due       bigint not null,
    publish_due    bigint not null,
    read_at        bigint
);
create index notice_tenant on notice (tenant_id, id) where in_app = 1;
create index notice_unread on notice (tenant_id, id) where in_app = 1 and read_at is null;
create index notice_mail on notice (tenant_id, class, id, at) where mail_due = 1;
create index notice_owner on notice (tenant_id);
create index notice_publish on notice (id) where publish_due = 1;

create table nonce (
    key_id     bigint not null,
    nonce      text not null,
    expires_at bigint not null,
    primary key (key_id, nonce)
);
create index nonce_expires on nonce (expires_at);

create table profile (
    version bigint generated by default as identity primary key,
    name    text not null,
    source  text not null
);

create table task (
    id             bigint primary key,
    application_id bigint not null,
    tenant_id      bigint not null,
    request        text not null,
    state          bigint not null, -- 0 running, 1 finished, 2 failed
    error          text,
    done           bigint not null,
    skipped        bigint not null,
    cursor         text,
    created_at     bigint not null,
    finished_at    bigint,
    kind           bigint not null default 0, -- 0 replay, 1 deletion; tenant_id is 0 where it is an application's
    total          bigint                     -- none until it is counted
);
create index task_running on task (id) where state = 0;

-- People at the pages, and the links that let them in.
create table session (
    id             bigint primary key,
    hash           bytea not null unique, -- SHA-256 of the link's code, or of the cookie's token once it is used
    key_id         bigint,              -- whoever came with this key, or
    application_id bigint,              -- a customer, and
    tenant_id      bigint,
    mode           bigint,
    terms          text,                 -- what they may do, as JSON
    created_at     bigint not null,
    opened_at      bigint,              -- none until the link is used
    expires_at     bigint not null
);
create index session_key on session (key_id, id) where key_id is not null;
create index session_tenant on session (tenant_id, id) where tenant_id is not null;
create index session_end on session (expires_at);

-- Deliveries and events are found by their owner through segments: whatever was accepted between two keys. An index over
-- all owners would dirty a page of its own for nearly each row; here a few pages of the newest segment take many.
create table segment (
    number     bigint primary key,
    first_key  bigint not null, -- keys of deliveries and events, both inside
    last_key   bigint not null, -- of the last segment: everything behind it is in none yet
    size       bigint not null, -- deliveries, or events where those are more
    first_at   bigint,          -- when its deliveries were accepted
    last_at    bigint
);
create unique index segment_first on segment (first_key);

create table delivery_of_tenant (
    segment bigint not null,
    owner   bigint not null,
    key     bigint not null,
    primary key (segment, owner, key)
);
create table delivery_of_endpoint (
    segment bigint not null,
    owner   bigint not null,
    key     bigint not null,
    primary key (segment, owner, key)
);
create table event_of_tenant (
    segment bigint not null,
    owner   bigint not null,
    key     bigint not null,
    primary key (segment, owner, key)
);

-- How many deliveries of a segment are in which state, and the attempts they took.
create table tally (
    segment     bigint not null,
    tenant_id   bigint not null,
    endpoint_id bigint not null,
    event_type  text not null,
    mode        bigint not null,
    period      bigint not null, -- of five minutes, since 1970
    state       bigint not null, -- as of a delivery
    deliveries  bigint not null,
    attempts    bigint not null,
    primary key (segment, tenant_id, endpoint_id, event_type, mode, period, state)
);

-- The keys in a JSON list: what SQLite's json_each gives.
create function keys_of(list text) returns table (value bigint) language sql immutable strict parallel safe rows 100
    as $$ select element::bigint from json_array_elements_text(list::json) element $$;

-- What only retries and health touch has room on its page for the next version of a row.
alter table delivery set (fillfactor = 90);
alter table endpoint set (fillfactor = 80);
alter table tally set (fillfactor = 80);
alter table meta set (fillfactor = 20);
