-- An audit and the retention of operators' records read a bounded number of rows at once.

set local lock_timeout = '10s';

-- How many events of all facilities wait that happened since a time: of the last 100,000 that wait.
create or replace function events.pending_since(since timestamptz) returns bigint
    language plpgsql stable security definer
    set search_path = pg_catalog set enable_seqscan = off set enable_sort = off
    as $$
begin
    return (select count(*)
            from (select o.occurred_at from events.outbox o order by o.position desc limit 100000) last
            where last.occurred_at >= since);
end
$$;

-- Looks at the next things that operators did longer ago than `kept_days`, at most so many at once, and forgets them; what is
-- about a dead letter that is still there stays. Returns how many were forgotten, how many were looked at, and the last of them:
-- whoever asks goes on behind it, so that what stays is not read again and again. Null: from the oldest.
create function events.prune_operator_actions(kept_days integer, at_most integer, after_at timestamptz, after_id bigint)
    returns table (pruned bigint, looked bigint, last_at timestamptz, last_id bigint)
    language plpgsql security definer
    set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
    set enable_mergejoin = off set enable_sort = off
    as $$
#variable_conflict use_column
declare
    page record;
begin
    select coalesce(array_agg(a.place) filter (where a.stays is null), '{}') as old, count(*) as looked,
           max(a.created_at) as last_at, (array_agg(a.id order by a.created_at desc, a.id desc))[1] as last_id
    into page
    from (
        select a.ctid as place, a.created_at, a.id,
               -- Looked up for each by itself: in any other form it may be made a hash of all dead letters.
               (select true from events.dead_letter d where d.id = a.dead_letter_id limit 1) as stays
        from events.operator_action a
        where (a.created_at, a.id) > (coalesce(after_at, '-infinity'), after_id)
          and a.created_at < now() - make_interval(days => greatest(kept_days, 1))
        order by a.created_at, a.id
        limit least(greatest(at_most, 1), 10000)
    ) a;
    delete from events.operator_action where ctid = any(page.old);
    get diagnostics pruned = row_count;
    return query select pruned, page.looked, page.last_at, page.last_id;
end
$$;

do $$
begin
    revoke all on function events.prune_operator_actions(integer, integer, timestamptz, bigint) from public;
    execute format('grant execute on function events.prune_operator_actions(integer, integer, timestamptz, bigint) to %I',
                   chassis.app_role());
end
$$;
