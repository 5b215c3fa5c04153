-- no-transaction
-- What is open, by facility. It serves what `operation_due` was for, too.
create index concurrently operation_turns on payment.operation (facility, lease_until)
    where state in ('RUNNING', 'UNKNOWN');
