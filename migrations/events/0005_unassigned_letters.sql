-- Dead letters whose message names no readable facility have the facility ''. They are seen by transactions that say so
-- in `weft.unassigned`, and by no other: not even by one that has set no facility.

do $$
declare name text;
begin
    foreach name in array array['dead_letter', 'parked_key', 'parked', 'replay_item', 'edit'] loop
        execute format('drop policy facility on events.%I', name);
        -- One array, so that an index that leads with the facility serves.
        execute format(
            'create policy facility on events.%I using (facility = any (array['
            '    nullif(current_setting(''weft.facility'', true), ''''),'
            '    case when current_setting(''weft.unassigned'', true) = ''on'' then '''' end]))', name);
    end loop;
end
$$;

-- Every administrator sees what any of them did about such a dead letter; it is on record in the facility of who did it.
create policy unassigned on events.operator_action for select
    using (current_setting('weft.unassigned', true) = 'on'
           and exists (select from events.dead_letter d where d.id = dead_letter_id and d.facility = ''));

create index dead_letter_settled on events.dead_letter (resolved_at) where resolved_at is not null;
create index replay_item_dead_letter on events.replay_item (dead_letter_id);

-- Forgets dead letters that were resolved or discarded longer ago than `kept_days`, with their edits and their places in
-- replays, at most so many at once. One that others still wait behind stays. Returns how many were forgotten; what
-- operators did stays on record.
create function events.prune_dead_letters(kept_days integer, at_most integer) returns integer
    language plpgsql security definer set search_path = pg_catalog
    as $$
declare
    kept interval := make_interval(days => greatest(kept_days, 1));
    old  uuid[];
begin
    old := array(
        select d.id from events.dead_letter d
        where d.resolved_at < now() - kept
          and not exists (select from events.parked_key k where k.dead_letter_id = d.id)
          and not exists (select from events.replay_item i join events.replay_run r on r.id = i.run_id
                          where i.dead_letter_id = d.id and r.state = 'running')
        order by d.resolved_at
        limit least(greatest(at_most, 1), 10000)
        for update of d skip locked);
    delete from events.edit where dead_letter_id = any(old);
    delete from events.replay_item where dead_letter_id = any(old);
    delete from events.dead_letter where id = any(old);
    delete from events.replay_run r
    where r.state <> 'running' and r.created_at < now() - kept
      and not exists (select from events.replay_item i where i.run_id = r.id);
    return cardinality(old);
end
$$;

do $$
begin
    revoke all on function events.prune_dead_letters(integer, integer) from public;
    execute format('grant execute on function events.prune_dead_letters(integer, integer) to %I', chassis.app_role());
end
$$;
