-- no-transaction
-- Lists and replays by fingerprint.
create index concurrently dead_letter_fingerprint on events.dead_letter (facility, fingerprint, state, id desc);
