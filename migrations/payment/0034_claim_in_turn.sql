-- Operations that nobody works on are taken in turn of the facilities: a facility's backlog holds up no other facility.

-- `holders` are facilities of which the caller has `held` operations in hand already: a facility's next operation comes after
-- all operations of others that have fewer.
create function payment.claim_due_operations(lease interval, at_most integer, holders text[], held integer[])
    returns table (operation_id uuid, operation_facility text)
    language sql security definer set search_path = pg_catalog
    as $$
        with recursive facilities as (
            -- One probe of the index for each.
            (select o.facility from payment.operation o
             where o.state in ('RUNNING', 'UNKNOWN')
             order by o.facility limit 1)
            union all
            select next.facility from facilities f cross join lateral (
                select o.facility from payment.operation o
                where o.state in ('RUNNING', 'UNKNOWN') and o.facility > f.facility
                order by o.facility limit 1) next
        ), in_turn as (
            select next.id
            from facilities f
            left join unnest(holders, held) as h (facility, held) on h.facility = f.facility
            cross join lateral (
                select o.id, o.lease_until, row_number() over (order by o.lease_until) as turn from payment.operation o
                where o.state in ('RUNNING', 'UNKNOWN') and o.facility = f.facility and o.lease_until < now()
                order by o.lease_until limit at_most) next
            order by coalesce(h.held, 0) + next.turn, next.lease_until
            limit at_most
        ), due as (
            select o.id from payment.operation o join in_turn on in_turn.id = o.id
            where o.state in ('RUNNING', 'UNKNOWN') and o.lease_until < now()
            for update of o skip locked
        )
        update payment.operation o
        set lease_until = now() + lease, attempts = o.attempts + 1
        from due where o.id = due.id
        returning o.id, o.facility
    $$;

-- As the version before calls it.
create or replace function payment.claim_due_operations(lease interval, at_most integer)
    returns table (operation_id uuid, operation_facility text)
    language sql security definer set search_path = pg_catalog
    as $$
        select * from payment.claim_due_operations(lease, at_most, '{}', '{}')
    $$;

drop index payment.operation_due;

do $$
begin
    revoke all on function payment.claim_due_operations(interval, integer, text[], integer[]) from public;
    execute format(
        'grant execute on function payment.claim_due_operations(interval, integer, text[], integer[]) to %I',
        chassis.app_role());
end
$$;
