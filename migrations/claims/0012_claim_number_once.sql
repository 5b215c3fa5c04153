-- no-transaction
-- claim_number has taken its place.
drop index concurrently if exists claims.claim_number_once;
