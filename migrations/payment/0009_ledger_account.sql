-- no-transaction
-- Lists of one account.
create index concurrently ledger_entry_account on payment.ledger_entry (facility, account, id desc);
