-- no-transaction
-- Lists by payer, alone and with a state.
create index concurrently claim_payer on claims.claim (facility, payer_id, id desc);
