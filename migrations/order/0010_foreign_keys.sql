-- These rows are written in the transaction that writes what they belong to, or later by who has read it, and orders are
-- never deleted; sagas are deleted with all that belongs to them. Each reference was looked up again for every row.

alter table orders.order_claim drop constraint order_claim_order_id_fkey;
alter table orders.saga drop constraint saga_order_id_fkey;
alter table orders.saga_step drop constraint saga_step_saga_id_fkey;
