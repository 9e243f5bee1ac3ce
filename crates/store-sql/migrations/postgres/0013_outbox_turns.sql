-- What waits of each tenant, so that they have turns.
create index outbox_turns on outbox (tenant_id, id) where refused is null;
