-- What is updated soon after it is written, many rows at once, finds room in its page and writes no index entry: requests, which
-- grow by their answers, and the sandbox's authorizations.
alter table chassis.idempotency set (fillfactor = 30);
alter table sandbox.card_authorization set (fillfactor = 50);
