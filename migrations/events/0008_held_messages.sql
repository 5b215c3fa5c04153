-- Messages that the broker refuses are held by name, and everything else is published.

set local lock_timeout = '10s';

-- A message of the outbox that the broker refused for a reason of its own. The row stays where it is; of an event, the
-- later events of its aggregate wait behind it.
create table events.held (
    -- Its row in events.outbox or events.notice.
    position     bigint      primary key,
    kind         text        not null check (kind in ('event', 'notice')),
    facility     text        not null,
    aggregate_id uuid        not null,
    message_id   text        not null,
    type         text        not null,
    subject      text        not null,
    size         bigint      not null,
    code         text        not null check (code in ('TOO_LARGE', 'REFUSED', 'NOT_PERMITTED')),
    reason       text        not null,
    -- How often it was refused, when first and last, and when it is tried again.
    attempts     integer     not null default 1,
    since        timestamptz not null default now(),
    last_at      timestamptz not null default now(),
    next_at      timestamptz not null
);

create index held_aggregate on events.held (aggregate_id, position) where kind = 'event';
create index held_newest on events.held (facility, position);

alter table events.held enable row level security;
create policy facility on events.held
    using (facility = any (array[
        nullif(current_setting('weft.facility', true), ''),
        case when current_setting('weft.unassigned', true) = 'on' then '' end]));

-- An operator discarded the event before it was published: it is in the log, not in the stream, and not missing there.
alter table events.event_log add column withheld boolean not null default false;

drop index events.event_log_aggregate;

-- Where a rebuild of the stream has come to: the last event of the log that is pending again. Null: none is running.
alter table events.stream
    add column rebuilding_since timestamptz,
    add column rebuilt_at timestamptz,
    add column rebuilt_id uuid;

-- What a consumer had not acknowledged when the stream was last looked at.
alter table events.consumer
    -- Everything up to this sequence was acknowledged, or not for this consumer.
    add column position bigint,
    add column position_at timestamptz,
    -- The stream that the sequence belongs to.
    add column stream_created_at timestamptz,
    -- Events left the stream before the consumer acknowledged them: published between these times.
    add column gap_from timestamptz,
    add column gap_until timestamptz;

drop function events.outbox_page(text, smallint[], bigint);
-- What a relay is to publish next: the oldest messages of each of the lanes that are still its own, of all facilities.
-- A lane's share of the page bounds what is read of it, so that a long lane does not stand in front of the others. Held
-- messages, and events behind held ones, are left out until they are due.
create function events.outbox_page(relay text, lanes smallint[], at_most bigint)
    returns table (id bigint, lane smallint, message_id text, subject text, body bytea, headers jsonb, event_id uuid,
                   type text, occurred_at timestamptz, facility text, aggregate text, aggregate_id uuid, version bigint,
                   saga_id uuid, causation_id uuid, traceparent text, attempts integer)
    language plpgsql stable security definer
    set search_path = pg_catalog set enable_seqscan = off set enable_sort = on
    as $$
#variable_conflict use_column
declare
    owned smallint[] := array(select substr(l.name, 6)::smallint from events.lease l
                              where l.name = any (select 'lane:' || lane from unnest(lanes) lane)
                                and l.owner = relay and l.until > now());
    share bigint := least(at_most, greatest(64, 2 * at_most / greatest(cardinality(owned), 1)));
begin
    return query
        with page as materialized (
            select waiting.position, waiting.is_event
            from unnest(owned) owned_lane cross join lateral (
                (select e.position, true as is_event from events.outbox e
                 where e.lane = owned_lane and not exists (
                     select from events.held h
                     where h.kind = 'event' and h.aggregate_id = e.aggregate_id and h.position <= e.position
                       and h.next_at > now())
                 order by e.position limit share)
                union all
                (select n.id, false from events.notice n
                 where n.lane = owned_lane and not exists (
                     select from events.held h where h.position = n.id and h.next_at > now())
                 order by n.id limit share)
            ) waiting
            order by 1
            limit at_most
        )
        (select e.position, e.lane,
                -- The broker may still remember the event's own id and would drop it.
                case e.republished when 0 then e.id::text else format('again:%s:%s', e.republished, e.id) end,
                e.subject, e.body, null::jsonb, e.id, e.type, e.occurred_at, e.facility, e.aggregate, e.aggregate_id,
                e.version, e.saga_id, e.causation_id, e.traceparent,
                coalesce((select h.attempts from events.held h where h.position = e.position), 0)
         from page join events.outbox e on e.position = page.position where page.is_event)
        union all
        (select n.id, n.lane, n.message_id, n.subject, n.body, n.headers, null, null, null, null, null, n.aggregate_id,
                null, null, null, null,
                coalesce((select h.attempts from events.held h where h.position = n.id), 0)
         from page join events.notice n on n.id = page.position where not page.is_event)
        order by 1;
end
$$;

-- As before; what was held and is published now is held no more.
create or replace function events.acknowledged(positions bigint[]) returns void
    language plpgsql security definer set search_path = pg_catalog
    as $$
begin
    update events.event_log set pending = false where pending and position = any(positions);
    delete from events.notice where id = any(positions);
    delete from events.held where position = any(positions);
end
$$;

-- Holds messages that the broker refused, or notes that it refused them again; at most `bound` in all. Returns the
-- positions that are held.
create function events.hold(positions bigint[], codes text[], reasons text[], sizes bigint[],
                            retry_seconds double precision, bound integer)
    returns setof bigint
    language plpgsql security definer set search_path = pg_catalog
    as $$
begin
    return query
        with refused as (
            select * from unnest(positions, codes, reasons, sizes) as r (position, code, reason, size)
        ), named as (
            select r.*, 'event' as kind, e.facility, e.aggregate_id, e.id::text as message_id, e.type, e.subject
            from refused r join events.outbox e using (position)
            union all
            select r.*, 'notice',
                   coalesce((select d.facility from events.dead_letter d
                             where d.id::text = n.headers ->> 'weft-dead-letter'), ''),
                   n.aggregate_id, n.message_id, coalesce(n.headers ->> 'ce-type', ''), n.subject
            from refused r join events.notice n on n.id = r.position
        )
        insert into events.held (position, kind, facility, aggregate_id, message_id, type, subject, size, code, reason,
                                 next_at)
        select position, kind, facility, aggregate_id, left(message_id, 300), left(type, 300), left(subject, 300), size,
               code, left(reason, 500), now() + make_interval(secs => retry_seconds)
        from named
        where exists (select from events.held h where h.position = named.position)
           or (select count(*) from events.held) + (select count(*) from named) <= bound
        on conflict (position) do update
        set attempts = held.attempts + 1, code = excluded.code, reason = excluded.reason, size = excluded.size,
            last_at = now(), next_at = excluded.next_at
        returning held.position;
end
$$;

-- Takes a held message out of the outbox. An event stays in the log as withheld; a dead letter whose replay is
-- discarded is open again. True: it was there.
create function events.discard_held(held_position bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog
    as $$
declare
    replayed text;
begin
    if not exists (select from events.held where position = held_position) then
        return false;
    end if;
    update events.event_log set pending = false, withheld = true where pending and position = held_position;
    delete from events.notice where id = held_position
    returning case when subject like 'retry.%' then headers ->> 'weft-dead-letter' end into replayed;
    update events.dead_letter set state = 'open' where id::text = replayed and state = 'replaying';
    delete from events.held where position = held_position;
    return true;
end
$$;

-- How many messages of all facilities are held, by the reason.
create function events.held_depth() returns table (code text, held bigint, oldest_seconds double precision)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select code, count(*), coalesce(extract(epoch from now() - min(since)), 0)::float8
        from events.held group by code
    $$;

-- How much waits to be published, of all facilities, and since when the oldest does that is not held. Beyond 100,000 it
-- is the server's estimate: what counts a backlog of any length must not read it.
create or replace function events.outbox_depth() returns table (depth bigint, since timestamptz)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select case when counted.events > 100000
                    then greatest(counted.events, pg_stat_get_live_tuples('events.outbox'::regclass))
                    else counted.events end
               + case when counted.notices > 100000
                      then greatest(counted.notices, pg_stat_get_live_tuples('events.notice'::regclass))
                      else counted.notices end,
               least(
                   (select o.queued_at from events.outbox o
                    where not exists (select from events.held h where h.kind = 'event'
                                      and h.aggregate_id = o.aggregate_id and h.position <= o.position)
                    order by o.position limit 1),
                   (select n.created_at from events.notice n
                    where not exists (select from events.held h where h.position = n.id)
                    order by n.id limit 1))
        from (select (select count(*) from (select from events.outbox limit 100001) o) as events,
                     (select count(*) from (select from events.notice limit 100001) n) as notices) counted
    $$;

-- How many events of all facilities wait that happened since a time; at most 1,000,000 are counted.
create or replace function events.pending_since(since timestamptz) returns bigint
    language sql stable security definer set search_path = pg_catalog
    as $$ select count(*) from (select from events.outbox where occurred_at >= since limit 1000000) o $$;

-- As before, without what was withheld.
create or replace function events.log_page(after_at timestamptz, after_id uuid, until_at timestamptz, at_most integer)
    returns table (occurred_at timestamptz, id uuid)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select occurred_at, id from events.event_log_published
        where (occurred_at, id) > (after_at, after_id) and occurred_at < until_at and not withheld
        order by occurred_at, id
        limit at_most
    $$;

-- Makes the given published events pending again, at the places they had. Returns how many.
create function events.requeue_events(ids uuid[], occurred timestamptz[]) returns bigint
    language sql security definer set search_path = pg_catalog
    as $$
        with queued as (
            update events.event_log e
            set pending = true, republished = republished + 1, queued_at = clock_timestamp()
            from unnest(ids, occurred) as wanted (id, occurred_at)
            where not e.pending and not e.withheld and e.id = wanted.id and e.occurred_at = wanted.occurred_at
            returning 1
        )
        select count(*) from queued
    $$;

-- Makes the next published events after this one pending again, in the order of (occurred_at, id). Returns the last of
-- them, and how many they are; no row when there are none.
create function events.requeue_page(after_at timestamptz, after_id uuid, at_most integer)
    returns table (last_at timestamptz, last_id uuid, queued bigint)
    language plpgsql security definer set search_path = pg_catalog
    as $$
#variable_conflict use_column
declare
    page_ids uuid[];
    page_at timestamptz[];
begin
    select array_agg(id order by occurred_at, id), array_agg(occurred_at order by occurred_at, id)
    into page_ids, page_at
    from (select e.occurred_at, e.id from events.event_log_published e
          where (e.occurred_at, e.id) > (after_at, after_id) and not e.withheld
          order by e.occurred_at, e.id
          limit at_most) page;
    if page_ids is not null then
        return query select page_at[cardinality(page_at)], page_ids[cardinality(page_ids)],
                            events.requeue_events(page_ids, page_at);
    end if;
end
$$;

-- Creates the published log's partitions for today and the days ahead, and for days that had begun in the default
-- partition: up to 200,000 rows of such a day are moved. It gives way to others after half a second, and is called again.
create or replace function events.create_partitions(days_ahead integer) returns integer
    language plpgsql security definer set search_path = pg_catalog set lock_timeout = '500ms'
    as $$
declare
    day   date;
    name  text;
    rows  bigint;
    made  integer := 0;
begin
    for day in
        select (now() at time zone 'utc')::date + ahead from generate_series(0, least(greatest(days_ahead, 0), 30)) ahead
        union
        select distinct (occurred_at at time zone 'utc')::date
        from (select occurred_at from events.event_log_default limit 200001) started
        order by 1
        limit 100
    loop
        name := 'event_log_' || to_char(day, 'YYYYMMDD');
        continue when to_regclass('events.' || name) is not null;
        select count(*) into rows from (
            select from events.event_log_default
            where occurred_at >= day::timestamp at time zone 'utc'
              and occurred_at < (day + 1)::timestamp at time zone 'utc' limit 200001) started;
        continue when rows > 200000;
        begin
            -- Attaching locks less than creating it as a partition: readers and the relay go on.
            execute format('create table events.%I (like events.event_log_published including defaults '
                           'including constraints)', name);
            if rows > 0 then
                execute format(
                    'with moved as (delete from events.event_log_default '
                    '               where occurred_at >= %L and occurred_at < %L returning *) '
                    'insert into events.%I select * from moved',
                    day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00', name);
            end if;
            execute format(
                'alter table events.event_log_published attach partition events.%I for values from (%L) to (%L)',
                name, day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00');
            made := made + 1;
        exception
            -- Two processes at once, rows that came meanwhile, or readers who stay: at the next call.
            when duplicate_table or check_violation or lock_not_available or deadlock_detected then null;
        end;
    end loop;
    return made;
end
$$;

-- Drops whole days of the published log that are older than `kept_days`, and up to 10,000 rows as old in the default
-- partition; it is called again. What is pending stays, however old it is.
create or replace function events.drop_partitions(kept_days integer) returns integer
    language plpgsql security definer set search_path = pg_catalog set lock_timeout = '500ms'
    as $$
declare
    part    record;
    kept    date := (now() at time zone 'utc')::date - greatest(kept_days, 1);
    dropped integer := 0;
begin
    for part in
        select c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') as day
        from pg_class c join pg_inherits i on i.inhrelid = c.oid
        where i.inhparent = 'events.event_log_published'::regclass and c.relname ~ '^event_log_[0-9]{8}$'
    loop
        if part.day < kept then
            begin
                execute format('drop table events.%I', part.relname);
                dropped := dropped + 1;
            exception
                when lock_not_available or deadlock_detected then null;
            end;
        end if;
    end loop;
    delete from events.event_log_default where ctid = any (array(
        select ctid from events.event_log_default where occurred_at < kept::timestamp at time zone 'utc' limit 10000));
    return dropped;
end
$$;

create index operator_action_age on events.operator_action (created_at);

-- Forgets what operators did longer ago than `kept_days`, at most so many at once; what is about a dead letter that is
-- still there stays. Returns how many.
create function events.prune_operator_actions(kept_days integer, at_most integer) returns integer
    language plpgsql security definer set search_path = pg_catalog
    as $$
declare
    pruned integer;
begin
    delete from events.operator_action where ctid = any (array(
        select a.ctid from events.operator_action a
        where a.created_at < now() - make_interval(days => greatest(kept_days, 1))
          and not exists (select from events.dead_letter d where d.id = a.dead_letter_id)
        order by a.created_at
        limit least(greatest(at_most, 1), 10000)));
    get diagnostics pruned = row_count;
    return pruned;
end
$$;

create index failure_age on events.failure (last_at);

do $$
declare
    app text := chassis.app_role();
    fn  text;
begin
    execute format('grant select, update on events.held to %I', app);
    foreach fn in array array[
        'outbox_page(text, smallint[], bigint)',
        'hold(bigint[], text[], text[], bigint[], double precision, integer)', 'discard_held(bigint)', 'held_depth()',
        'requeue_events(uuid[], timestamptz[])', 'requeue_page(timestamptz, uuid, integer)',
        'prune_operator_actions(integer, integer)'
    ] loop
        execute format('revoke all on function events.%s from public', fn);
        execute format('grant execute on function events.%s to %I', fn, app);
    end loop;
end
$$;
