-- no-transaction
-- A second operation of the same request is refused here.
create unique index concurrently operation_request on payment.operation (facility, request_method, request_id)
    where request_method <> '';
