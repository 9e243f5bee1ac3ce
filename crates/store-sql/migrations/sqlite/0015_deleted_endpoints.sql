-- Endpoints that were deleted, for the rounds that forget them when the last of their deliveries has gone.
create index endpoint_deleted on endpoint (id) where deleted = 1;
