-- no-transaction
-- The primary key has taken its place.
drop index concurrently if exists claims.claim_newest;
