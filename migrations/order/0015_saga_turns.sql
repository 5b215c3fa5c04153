-- no-transaction
-- The sagas that wait for one participant, by facility. It serves what `saga_due` was for, too.
create index concurrently saga_turns on orders.saga (
    (case when plan[position + 1] in ('prepare_claim', 'submit_claim', 'withdraw_claim') then 'claims' else 'payment' end),
    facility, due_at
) where due_at is not null;
