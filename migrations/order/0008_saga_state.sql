-- no-transaction
-- Lists by state. It serves what `saga_stuck` was for.
create index concurrently saga_state on orders.saga (facility, state, id desc);
