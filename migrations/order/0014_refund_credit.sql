-- Of a refund's balance: what the patient had paid too much when the refund was planned. Null in refunds that were planned
-- before this column was there.
alter table orders.order_refund add column credit bigint;
