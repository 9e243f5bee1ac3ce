-- Events that a product has put into the database in a transaction of its own, until a server has taken them. Only
-- PostgreSQL lets anybody do that; here it is for what an export brings.
create table outbox (
    id         integer primary key, -- their order
    tenant_id  integer not null,
    key        text not null,       -- under which it is published once, however often it is tried
    event      text not null,       -- as the API takes it
    created_at integer not null,
    refused    text                 -- why it can be no event; somebody has to look
) strict;
create index outbox_waiting on outbox (id) where refused is null;
create index outbox_refused on outbox (created_at) where refused is not null;
create index outbox_owner on outbox (tenant_id);
