-- no-transaction
-- Becomes the primary key: it finds a claim and lists a facility's claims, for which there were two indexes.
create unique index concurrently if not exists claim_key on claims.claim (facility, id);
