-- The sagas of all facilities that have not ended, by state, for metrics.

create function orders.open_sagas()
    returns table (state text, sagas bigint, overdue bigint, oldest_seconds double precision)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select s.state, count(*), count(*) filter (where s.deadline_at < now()),
               extract(epoch from now() - min(s.created_at))::float8
        from orders.saga s
        where s.due_at is not null
        group by s.state
    $$;

drop function orders.saga_backlog();

do $$
begin
    revoke all on function orders.open_sagas() from public;
    execute format('grant execute on function orders.open_sagas() to %I', chassis.app_role());
end
$$;
