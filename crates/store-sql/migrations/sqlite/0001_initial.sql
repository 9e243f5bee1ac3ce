-- Times are microseconds since 1970. An id column is the upper half of the id (see core/src/id.rs);
-- it grows with time, so inserting appends.

create table meta (
    key   text primary key,
    value integer not null
) strict, without rowid;

create table application (
    id         integer primary key,
    name       text not null unique,
    profile    text not null,
    settings   text not null, -- JSON
    created_at integer not null,
    updated_at integer not null
) strict;

create table tenant (
    id             integer primary key,
    application_id integer not null,
    name           text not null,
    external_id    text,
    live_secret    blob not null, -- sealed, like the next
    live_since     integer not null,
    test_secret    blob not null,
    test_since     integer not null,
    settings       text not null, -- JSON
    created_at     integer not null,
    updated_at     integer not null
) strict;
create unique index tenant_external on tenant (application_id, external_id) where external_id is not null;
create index tenant_application on tenant (application_id, id);

create table event_type (
    application_id integer not null,
    name           text not null,
    description    text,
    schema         text, -- JSON, as it was written
    example        text, -- JSON, as it was written
    created_at     integer not null,
    primary key (application_id, name)
) strict, without rowid;

create table endpoint (
    id                   integer primary key,
    application_id       integer not null,
    tenant_id            integer not null,
    kind                 integer not null, -- 0 registered, 1 callback, 2 an API key's, 3 a distribution's
    key_id               integer,          -- of kind 2
    distribution         text,             -- of kind 3: JSON
    deleted              integer not null default 0,
    url                  text not null,
    description          text,
    subscription         text not null,    -- JSON list of patterns
    mode                 integer not null, -- 0 live, 1 test
    headers              text not null,    -- JSON list of pairs
    rate_limit           integer,
    ordering             integer not null, -- 0 none, 1 endpoint, 2 key
    form                 integer not null default 0,
    disabled_reason      text,
    disabled_at          integer,
    consecutive_failures integer not null default 0,
    failing_since        integer,
    created_at           integer not null,
    updated_at           integer not null
) strict;
create index endpoint_listed on endpoint (tenant_id, kind, id, mode) where deleted = 0;
create unique index endpoint_callback on endpoint (tenant_id, mode, url) where kind = 1 and deleted = 0;
create unique index endpoint_key on endpoint (key_id) where kind = 2 and deleted = 0;

create table endpoint_secret (
    endpoint_id integer not null,
    position    integer not null, -- 0 is the newest
    sealed      blob not null,
    created_at  integer not null,
    expires_at  integer,
    primary key (endpoint_id, position)
) strict, without rowid;

create table event (
    id             integer primary key,
    application_id integer not null,
    tenant_id      integer not null,
    type           text not null,
    mode           integer not null,
    occurred_at    integer not null,
    created_at     integer not null,
    ordering_key   text,
    deliver_before integer,
    data           blob not null, -- as published, byte for byte
    meta           blob
) strict;
create index event_tenant on event (tenant_id, id);

create table delivery (
    id                integer primary key,
    event_id          integer not null,
    endpoint_id       integer not null,
    tenant_id         integer not null,
    event_type        text not null,
    mode              integer not null, -- 0 live, 1 test
    profile           integer not null,
    state             integer not null, -- 0 pending, 1 delivered, 2 failed, 3 cancelled
    reason            integer,          -- of failed: 0 exhausted, 1 stopped, 2 endpoint disabled, 3 expired
    attempts          integer not null,
    due_at            integer not null,
    sequence          integer not null, -- place in the lane
    series_attempts   integer not null,
    series_started_at integer,
    series_single     integer not null,
    created_at        integer not null,
    completed_at      integer
) strict;
create index delivery_event on delivery (event_id);
create index delivery_tenant on delivery (tenant_id, id);
create index delivery_endpoint on delivery (endpoint_id, id);
create index delivery_pending on delivery (endpoint_id, sequence, id) where state = 0;
create index delivery_unsuccessful on delivery (tenant_id, id) where state >= 2;
create index delivery_endpoint_unsuccessful on delivery (endpoint_id, id) where state >= 2;

create table attempt (
    delivery_id      integer not null,
    number           integer not null,
    started_at       integer not null,
    ended_at         integer not null,
    url              text not null,
    request_headers  text not null, -- "name: value" lines
    status           integer,
    retry_after      integer,
    reason           text,          -- why there was no answer
    detail           text,
    response_headers text,
    response_body    blob,
    truncated        integer not null,
    dns_us           integer,
    connect_us       integer,
    tls_us           integer,
    first_byte_us    integer,
    total_us         integer not null,
    manual           integer not null,
    region           text,          -- where it left from
    local_address    text,
    rendering_id     integer references rendering (id),
    primary key (delivery_id, number)
) strict, without rowid;

-- What of an endpoint made a body; the same text once.
create table rendering (
    id   integer primary key,
    text text not null unique -- JSON
) strict;

create table idempotency (
    application_id integer not null,
    key            text not null,
    event_id       integer not null,
    fingerprint    blob not null,
    deliveries     integer not null,
    at             integer not null,
    primary key (application_id, key)
) strict, without rowid;
create index idempotency_at on idempotency (at);

create table api_key (
    id             integer primary key,
    name           text not null,
    application_id integer,
    tenant_id      integer,
    mode           integer not null,
    secret_hash    blob not null unique,
    public_id      text unique,
    sealed_secret  blob,
    allowed_ips    text not null, -- JSON list of networks
    disabled_at    integer,
    created_at     integer not null
) strict;
create index api_key_tenant on api_key (tenant_id, id);
create index api_key_application on api_key (application_id, id);

-- Who changed what.
create table audit (
    id             integer primary key,
    at             integer not null,
    application_id integer,
    tenant_id      integer,
    key_id         integer,       -- of the actor; none is the server itself
    actor          text not null,
    action         text not null,
    subject        text not null,
    before         text,          -- JSON, without secrets
    after          text
) strict;
create index audit_tenant on audit (tenant_id, id);
create index audit_application on audit (application_id, id);

-- What somebody is to be told.
create table notice (
    id             integer primary key,
    application_id integer not null,
    tenant_id      integer not null,
    class          integer not null, -- 0 webhooks, 1 distributions
    kind           integer not null, -- 0 delivery failed, 1 endpoint disabled
    endpoint_id    integer not null,
    delivery_id    integer not null,
    event_type     text not null,
    mode           integer not null, -- 0 live, 1 test
    url            text not null,
    attempts       integer not null,
    error          text not null,
    at             integer not null,
    in_app         integer not null,
    mail_due       integer not null,
    publish_due    integer not null,
    read_at        integer
) strict;
create index notice_tenant on notice (tenant_id, id) where in_app = 1;
create index notice_unread on notice (tenant_id, id) where in_app = 1 and read_at is null;
create index notice_mail on notice (tenant_id, class, id, at) where mail_due = 1;
create index notice_publish on notice (id) where publish_due = 1;

create table nonce (
    key_id     integer not null,
    nonce      text not null,
    expires_at integer not null,
    primary key (key_id, nonce)
) strict, without rowid;
create index nonce_expires on nonce (expires_at);

create table profile (
    version integer primary key,
    name    text not null,
    source  text not null
) strict;

create table task (
    id             integer primary key,
    application_id integer not null,
    tenant_id      integer not null,
    request        text not null,
    state          integer not null, -- 0 running, 1 finished, 2 failed
    error          text,
    done           integer not null,
    skipped        integer not null,
    cursor         text,
    created_at     integer not null,
    finished_at    integer
) strict;
create index task_running on task (id) where state = 0;
