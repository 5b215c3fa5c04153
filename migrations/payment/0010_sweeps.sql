-- Sweeps that read what is due and nothing else: `now()` can be an index condition, which the volatile
-- `clock_timestamp()` of the first version could not.

create or replace function payment.claim_due_operations(lease interval, at_most integer)
    returns table (operation_id uuid, operation_facility text)
    language sql security definer set search_path = pg_catalog
    as $$
        with due as (
            select id from payment.operation
            where state in ('RUNNING', 'UNKNOWN') and lease_until < now()
            order by lease_until
            limit at_most
            for update skip locked
        )
        update payment.operation o
        set lease_until = now() + lease, attempts = o.attempts + 1
        from due where o.id = due.id
        returning o.id, o.facility
    $$;

create or replace function payment.lapsed_authorizations(at_most integer)
    returns table (payment_id uuid, payment_facility text)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select p.id, p.facility from payment.payment p
        where p.state = 'AUTHORIZED' and p.expires_at < now()
          and not exists (
              select from payment.operation o where o.payment_id = p.id and o.state in ('RUNNING', 'UNKNOWN'))
        order by p.expires_at
        limit at_most
    $$;

-- The same, page by page: after the authorization that lapsed at `after` (`lapsed_at` of the last row of the page before).
create function payment.lapsed_authorizations(after timestamptz, at_most integer)
    returns table (payment_id uuid, payment_facility text, lapsed_at timestamptz)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select p.id, p.facility, p.expires_at from payment.payment p
        where p.state = 'AUTHORIZED' and p.expires_at < now() and (after is null or p.expires_at > after)
          and not exists (
              select from payment.operation o where o.payment_id = p.id and o.state in ('RUNNING', 'UNKNOWN'))
        order by p.expires_at
        limit at_most
    $$;

do $$
begin
    revoke all on function payment.lapsed_authorizations(timestamptz, integer) from public;
    execute format(
        'grant execute on function payment.lapsed_authorizations(timestamptz, integer) to %I', chassis.app_role());
end
$$;
