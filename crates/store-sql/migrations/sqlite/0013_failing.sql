-- Which endpoints fail now, those that have the longest first.
create index endpoint_failing on endpoint (failing_since, id) where failing_since is not null and deleted = 0;
