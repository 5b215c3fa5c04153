-- Due sagas are taken by the participant that their step calls, and in turn of the facilities: those that wait for a slow
-- participant hold up none that wait for the other, and a facility's backlog holds up no other facility.

-- Takes sagas at a step of `participant` ('claims' or 'payment') that are due. `holders` are facilities of which the caller
-- has `held` sagas in hand already: a facility's next saga comes after all sagas of others that have fewer.
create function orders.claim_due_sagas(
        owner uuid, lease interval, at_most integer, participant text, holders text[], held integer[])
    returns table (id uuid, facility text, epoch bigint)
    language sql security definer set search_path = pg_catalog
    as $$
        with recursive facilities as (
            -- One probe of the index for each.
            (select s.facility from orders.saga s
             where case when s.plan[s.position + 1] in ('prepare_claim', 'submit_claim', 'withdraw_claim')
                        then 'claims' else 'payment' end = participant
               and s.due_at is not null
             order by s.facility limit 1)
            union all
            select next.facility from facilities f cross join lateral (
                select s.facility from orders.saga s
                where case when s.plan[s.position + 1] in ('prepare_claim', 'submit_claim', 'withdraw_claim')
                           then 'claims' else 'payment' end = participant
                  and s.due_at is not null and s.facility > f.facility
                order by s.facility limit 1) next
        ), in_turn as (
            select next.id
            from facilities f
            left join unnest(holders, held) as h (facility, held) on h.facility = f.facility
            cross join lateral (
                select s.id, s.due_at, row_number() over (order by s.due_at) as turn from orders.saga s
                where case when s.plan[s.position + 1] in ('prepare_claim', 'submit_claim', 'withdraw_claim')
                           then 'claims' else 'payment' end = participant
                  and s.facility = f.facility and s.due_at <= now()
                order by s.due_at limit at_most) next
            order by coalesce(h.held, 0) + next.turn, next.due_at
            limit at_most
        ), due as (
            select s.id from orders.saga s join in_turn on in_turn.id = s.id
            where s.due_at <= now()
            for update of s skip locked
        )
        update orders.saga s
        set lease_owner = owner, lease_until = now() + lease, lease_epoch = s.lease_epoch + 1, wake_at = null
        from due where s.id = due.id
        returning s.id, s.facility, s.lease_epoch
    $$;

-- As the version before calls it, which knows neither participants nor turns.
create or replace function orders.claim_due_sagas(owner uuid, lease interval, at_most integer)
    returns table (id uuid, facility text, epoch bigint)
    language plpgsql security definer set search_path = pg_catalog
    as $$
declare
    taken integer;
begin
    return query select * from orders.claim_due_sagas(owner, lease, (at_most + 1) / 2, 'claims', '{}', '{}');
    get diagnostics taken = row_count;
    return query select * from orders.claim_due_sagas(owner, lease, at_most - taken, 'payment', '{}', '{}');
end
$$;

drop index orders.saga_due;

do $$
begin
    revoke all on function orders.claim_due_sagas(uuid, interval, integer, text, text[], integer[]) from public;
    execute format(
        'grant execute on function orders.claim_due_sagas(uuid, interval, integer, text, text[], integer[]) to %I',
        chassis.app_role());
end
$$;
