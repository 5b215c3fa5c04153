-- no-transaction
-- Lists by consumer, and how many of each consumer are open.
create index concurrently dead_letter_consumer on events.dead_letter (facility, consumer, state, id desc);
