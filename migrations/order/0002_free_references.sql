-- An order that came to nothing frees its reference: the caller may place it again, with another card for one.
drop index orders.placed_order_reference;

create unique index placed_order_reference on orders.placed_order (facility, reference)
    where reference <> '' and state not in ('rejected', 'expired', 'cancelled');

-- Reading by reference finds those, too.
create index placed_order_by_reference on orders.placed_order (facility, reference, id) where reference <> '';
