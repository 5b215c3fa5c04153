-- Late payments reverse what was moved or written off, and rounding is named. The new rules hold all that the old ones
-- held, so that no row is looked at.
alter table payment.ledger_transaction drop constraint ledger_transaction_cause_check;
alter table payment.ledger_transaction add constraint ledger_transaction_cause_check check (cause in (
    'ORDER_FULFILLED', 'PAYMENT_CAPTURED', 'REMITTANCE_PAID', 'TAKEBACK', 'DENIAL_TRANSFERRED', 'WRITE_OFF',
    'REFUND', 'ORDER_RETURNED', 'TRANSFER_REVERSED', 'WRITE_OFF_REVERSED', 'ROUNDING')) not valid;
alter table payment.ledger_entry drop constraint ledger_entry_account_check;
alter table payment.ledger_entry add constraint ledger_entry_account_check check (account in (
    'PATIENT_RECEIVABLE', 'PAYER_RECEIVABLE', 'CASH', 'PAYER_CASH', 'REVENUE', 'BAD_DEBT', 'ROUNDING')) not valid;
