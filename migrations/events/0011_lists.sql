-- Lists and sweeps of dead letters and replays read a page of rows, however many there are.

set local lock_timeout = '10s';

-- A page of dead letters, newest first: at most `at_most` before `before`. Empty texts mean any consumer and any
-- fingerprint. Each facility and state is read in the order of its index and no further than the page goes: a plan that
-- was made for few rows must not sort many, and as pages cost nothing here, the plan that touches the fewest rows wins.
create function events.dead_letter_page(facilities text[], states text[], of_consumer text, of_fingerprint text,
                                        before uuid, at_most bigint)
    returns table (id uuid, fingerprint text)
    language plpgsql stable
    set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
    set random_page_cost = 0 set seq_page_cost = 0
    as $$
#variable_conflict use_column
begin
    if of_fingerprint <> '' then
        return query
            select page.id, page.fingerprint
            from unnest(facilities) f (facility) cross join unnest(states) s (state) cross join lateral (
                select d.id, d.fingerprint from events.dead_letter d
                where d.facility = f.facility and d.state = s.state and d.fingerprint = of_fingerprint
                  and d.id < before
                order by d.id desc limit at_most
            ) page
            -- A fingerprint is that of one consumer.
            where of_consumer = '' or of_consumer = (
                select d.consumer from events.dead_letter d
                where d.facility = f.facility and d.fingerprint = of_fingerprint limit 1)
            order by 1 desc limit at_most;
    elsif of_consumer <> '' then
        return query
            select page.id, page.fingerprint
            from unnest(facilities) f (facility) cross join unnest(states) s (state) cross join lateral (
                select d.id, d.fingerprint from events.dead_letter d
                where d.facility = f.facility and d.state = s.state and d.consumer = of_consumer and d.id < before
                order by d.id desc limit at_most
            ) page
            order by 1 desc limit at_most;
    else
        return query
            select page.id, page.fingerprint
            from unnest(facilities) f (facility) cross join unnest(states) s (state) cross join lateral (
                select d.id, d.fingerprint from events.dead_letter d
                where d.facility = f.facility and d.state = s.state and d.id < before
                order by d.id desc limit at_most
            ) page
            order by 1 desc limit at_most;
    end if;
end
$$;

-- Depth and age of the dead letters of all facilities, for metrics. Of each consumer at most 10,000 are counted.
create or replace function events.dead_letter_depth()
    returns table (consumer text, error_class text, open bigint, oldest_seconds double precision)
    language plpgsql stable security definer
    set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
    set random_page_cost = 0 set seq_page_cost = 0
    as $$
#variable_conflict use_column
begin
    return query
        with recursive facility (name) as (
            (select d.facility from events.dead_letter d order by d.facility limit 1)
            union all
            select (select d.facility from events.dead_letter d where d.facility > f.name order by d.facility limit 1)
            from facility f where f.name is not null
        )
        select c.name, counted.error_class, count(*),
               coalesce(extract(epoch from now() - min(counted.created_at)), 0)::float8
        from events.consumer c cross join lateral (
            select letter.error_class, letter.created_at
            from facility f cross join unnest(array['open', 'replaying']) s (state) cross join lateral (
                select d.error_class, d.created_at from events.dead_letter d
                where d.facility = f.name and d.consumer = c.name and d.state = s.state
                order by d.id limit 10000
            ) letter
            limit 10000
        ) counted
        group by c.name, counted.error_class;
end
$$;

-- How far a running replay has been looked through: all up to `settled_to` have an outcome and are counted, and
-- `looked_to` is where the next look begins. What is sent is sent in the order of the positions.
alter table events.replay_run
    add column sent_to integer not null default 0,
    add column settled_to integer not null default 0,
    add column looked_to integer not null default 0,
    add column resolved integer not null default 0,
    add column failed integer not null default 0,
    -- Failed again in the way that the group had failed; in a run of all kinds, in any way.
    add column same_kind integer not null default 0;

alter table events.replay_item
    add column outcome text check (outcome in ('resolved', 'failed'));

-- Runs that are to go on, of all facilities: 100 after this one. Whoever asks goes on behind the last, and begins again
-- behind none, so that runs which never end hold up no other.
create function events.running_replays(after uuid) returns table (id uuid, facility text)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select id, facility from events.replay_run where state = 'running' and id > after order by id limit 100
    $$;

create index replay_run_running on events.replay_run (id) where state = 'running';

create index replay_run_age on events.replay_run (created_at) where state <> 'running';

-- As before, by indexes whatever the tables looked like when the plan was made, and at most so many runs at once.
create or replace function events.prune_dead_letters(kept_days integer, at_most integer) returns integer
    language plpgsql security definer
    set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
    set enable_mergejoin = off
    as $$
declare
    kept interval := make_interval(days => greatest(kept_days, 1));
    most integer := least(greatest(at_most, 1), 10000);
    old  uuid[];
begin
    old := array(
        select d.id from events.dead_letter d
        where d.resolved_at < now() - kept
          and not exists (select from events.parked_key k where k.dead_letter_id = d.id)
          -- Looked up for each letter by itself: as a join, it would read every item of the running replays.
          and (select true from events.replay_item i join events.replay_run r on r.id = i.run_id
               where i.dead_letter_id = d.id and r.state = 'running' limit 1) is null
        order by d.resolved_at
        limit most
        for update of d skip locked);
    delete from events.edit where dead_letter_id = any(old);
    delete from events.replay_item where dead_letter_id = any(old);
    delete from events.dead_letter where id = any(old);
    delete from events.replay_run where id = any (array(
        select r.id from events.replay_run r
        where r.state <> 'running' and r.created_at < now() - kept
          and not exists (select from events.replay_item i where i.run_id = r.id)
        order by r.created_at
        limit most));
    return cardinality(old);
end
$$;

do $$
declare
    app text := chassis.app_role();
    fn  text;
begin
    foreach fn in array array[
        'dead_letter_page(text[], text[], text, text, uuid, bigint)', 'running_replays(uuid)'
    ] loop
        execute format('revoke all on function events.%s from public', fn);
        execute format('grant execute on function events.%s to %I', fn, app);
    end loop;
end
$$;
