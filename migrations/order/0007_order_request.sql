-- no-transaction
-- A second order of the same request is refused here.
create unique index concurrently placed_order_request on orders.placed_order (facility, request_id)
    where request_id is not null;
