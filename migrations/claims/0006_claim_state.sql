-- no-transaction
-- Lists by state: what was rejected is a work queue.
create index concurrently claim_state on claims.claim (facility, state, id desc);
