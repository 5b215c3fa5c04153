-- How often a saga was woken: a wake-up that comes while it is driven is not lost.
alter table orders.saga add column nudges bigint not null default 0;

-- As before, and with the lease's epoch, so that a process that cannot even read a saga can give it back.
drop function orders.claim_due_sagas(uuid, interval, integer);

create function orders.claim_due_sagas(owner uuid, lease interval, at_most integer)
    returns table (id uuid, facility text, epoch bigint)
    language sql security definer set search_path = pg_catalog
    as $$
        with due as (
            select s.id from orders.saga s
            where s.due_at <= now()
            order by s.due_at
            limit at_most
            for update skip locked
        )
        update orders.saga s
        set lease_owner = owner, lease_until = now() + lease, lease_epoch = s.lease_epoch + 1, wake_at = null
        from due where s.id = due.id
        returning s.id, s.facility, s.lease_epoch
    $$;

do $$
begin
    revoke all on function orders.claim_due_sagas(uuid, interval, integer) from public;
    execute format(
        'grant execute on function orders.claim_due_sagas(uuid, interval, integer) to %I', chassis.app_role());
end
$$;
