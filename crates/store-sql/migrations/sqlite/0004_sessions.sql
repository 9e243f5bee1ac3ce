-- People at the pages, and the links that let them in.
create table session (
    id             integer primary key,
    hash           blob not null unique, -- SHA-256 of the link's code, or of the cookie's token once it is used
    key_id         integer,              -- whoever came with this key, or
    application_id integer,              -- a customer, and
    tenant_id      integer,
    mode           integer,
    terms          text,                 -- what they may do, as JSON
    created_at     integer not null,
    opened_at      integer,              -- none until the link is used
    expires_at     integer not null
) strict;
create index session_key on session (key_id, id) where key_id is not null;
create index session_tenant on session (tenant_id, id) where tenant_id is not null;
create index session_end on session (expires_at);
