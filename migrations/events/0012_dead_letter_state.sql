-- no-transaction
-- Lists by state, and groups.
create index concurrently dead_letter_state on events.dead_letter (facility, state, id desc) include (fingerprint);
