-- no-transaction
-- Lists by state.
create index concurrently payment_state on payment.payment (facility, state, id desc);
