-- no-transaction
-- By time first, so that new rows go to the end of the index.
create unique index concurrently audit_call on chassis.audit (at, call_id);
