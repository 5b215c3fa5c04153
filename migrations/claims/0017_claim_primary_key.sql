-- The new key is there already: this takes a moment.

set local lock_timeout = '10s';

alter table claims.resubmission drop constraint resubmission_claim_fkey;
alter table claims.remittance_line drop constraint remittance_line_claim_fkey;
alter table claims.claim drop constraint claim_pkey;
alter table claims.claim add constraint claim_pkey primary key using index claim_key;
