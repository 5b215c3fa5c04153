-- no-transaction
-- Events that were set aside, because an earlier one of their aggregate is held.
create index concurrently outbox_aside on events.outbox (lane, aggregate_id, position) where lane < 0;
