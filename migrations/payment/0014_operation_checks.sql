-- What an operation refers to is looked at once for all rows of a statement; it was three foreign keys for each row. Locks are taken
-- in the order in which transactions take them that open operations.
lock table payment.payment, payment.operation in access exclusive mode;

-- An operation belongs to a payment of its facility, and what it follows and builds on are operations of the same payment.
create function payment.check_operations() returns trigger
    language plpgsql security definer set search_path = pg_catalog
    as $$
declare
    broken uuid;
begin
    select o.id into broken
    from added o
        left join payment.payment p on p.id = o.payment_id
        left join payment.operation root on root.id = o.root_id
        left join payment.operation target on target.id = o.target_id
    where p.facility is distinct from o.facility or root.payment_id is distinct from o.payment_id
        or (o.target_id is not null and target.payment_id is distinct from o.payment_id)
    limit 1;
    if found then
        raise exception 'operation % refers to what is not there', broken
            using errcode = 'foreign_key_violation', constraint = 'operation_refers';
    end if;
    return null;
end
$$;

create trigger operation_refers after insert on payment.operation
    referencing new table as added for each statement execute function payment.check_operations();
revoke all on function payment.check_operations() from public;

-- The trigger looks at the same rows. Payments and operations are never deleted: the service's role has no right to.
alter table payment.operation
    drop constraint operation_payment_id_fkey,
    drop constraint operation_root_id_fkey,
    drop constraint operation_target_id_fkey;

-- The amounts of an authorization are counted up in the page that it is in.
alter table payment.operation set (fillfactor = 80);
