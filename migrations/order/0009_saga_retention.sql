-- Sagas that ended long ago are deleted with their steps and what operators did to them.

drop index orders.saga_stuck;

-- One page of sagas, oldest first; where the next begins, null when this was the last. Runs as the owner, whom row-level
-- security exempts. Ids are UUIDs of version 7: their order is that of their making.
create function orders.prune_sagas(kept interval, after text, at_most integer)
    returns table (deleted bigint, upto text)
    language plpgsql security definer set search_path = pg_catalog
    as $$
declare
    page uuid[];
    gone uuid[];
    last timestamptz;
begin
    select array_agg(s.id order by s.id), max(s.created_at),
           array_agg(s.id) filter (where s.due_at is null and s.updated_at < now() - kept)
    into page, last, gone
    from (select p.id, p.created_at, p.updated_at, p.due_at from orders.saga p
          where after is null or p.id > after::uuid
          order by p.id limit at_most) s;
    delete from orders.saga_step x where x.saga_id = any (gone);
    delete from orders.saga_action x where x.saga_id = any (gone);
    delete from orders.saga x where x.id = any (gone);
    deleted := coalesce(cardinality(gone), 0);
    upto := case when cardinality(page) = at_most and last < now() - kept then page[at_most]::text end;
    return next;
end
$$;

do $$
begin
    revoke all on function orders.prune_sagas(interval, text, integer) from public;
    execute format('grant execute on function orders.prune_sagas(interval, text, integer) to %I', chassis.app_role());
end
$$;
