-- no-transaction
-- One claim of a number, and any that have freed it; it finds both.
create unique index concurrently if not exists claim_number on claims.claim (facility, provider_id, claim_id, freed);
