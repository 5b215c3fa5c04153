-- The outbox is a part of the log: the partition of the events that the broker has not acknowledged yet. A business
-- transaction writes an event once, into one plain table; the relay moves what is acknowledged to the partition of its
-- day, many rows at once. The headers of an event follow from its other columns, so they are not kept.

-- Numbers everything that is published, in the order in which it was written: within an aggregate that of its versions.
create sequence events.position as bigint;

alter table events.event_log rename to event_log_published;
alter index events.event_log_pkey rename to event_log_published_pkey;
drop policy facility on events.event_log_published;

-- Messages of the backbone's own are no events and not in the log: copies for DEAD_LETTERS, and replays.
alter table events.outbox rename to notice;
alter index events.outbox_pkey rename to notice_pkey;
alter index events.outbox_lane rename to notice_lane;

alter table events.event_log_published
    add column pending boolean not null default false,
    add column lane smallint,
    add column position bigint,
    add column traceparent text not null default '',
    add column republished integer not null default 0,
    add column queued_at timestamptz not null default clock_timestamp();

with placed as (
    select id, occurred_at, row_number() over (order by turn, aggregate_id, version) as position
    from (select *, max(occurred_at) over (partition by aggregate_id order by version) as turn
          from events.event_log_published) e
)
update events.event_log_published e
set lane = get_byte(uuid_send(aggregate_id), 15) % 16, position = placed.position,
    traceparent = coalesce(headers ->> 'traceparent', '')
from placed where placed.id = e.id and placed.occurred_at = e.occurred_at;

alter table events.event_log_published
    alter column lane set not null,
    alter column position set not null,
    drop column headers;

create table events.event_log (
    -- The broker has not acknowledged it, or is to get it again.
    pending      boolean     not null default true,
    position     bigint      not null default nextval('events.position'),
    -- The aggregate's lane: one relay owns it at a time, so that order survives.
    lane         smallint    not null,
    occurred_at  timestamptz not null,
    -- A UUID version 7, and the message id under which the broker and every consumer know the event.
    id           uuid        not null,
    type         text        not null,
    subject      text        not null,
    facility     text        not null,
    aggregate    text        not null,
    aggregate_id uuid        not null,
    -- The aggregate's version, taken under its row lock: the order of events within it.
    version      bigint      not null,
    saga_id      uuid,
    causation_id uuid,
    -- The trace in which it happened; empty: none.
    traceparent  text        not null,
    body         bytea       not null,
    -- How often it was put back, to be published again.
    republished  integer     not null default 0,
    -- Since when it is pending, or was when it was published.
    queued_at    timestamptz not null default clock_timestamp()
) partition by list (pending);

create table events.outbox partition of events.event_log (
    check (lane between 0 and 15),
    primary key (position)
) for values in (true)
    with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
          autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000);

create index outbox_lane on events.outbox (lane, position);

alter table events.event_log attach partition events.event_log_published for values in (false);

do $$
declare name text;
begin
    -- Rows are read through the log and written into the outbox itself.
    foreach name in array array['event_log', 'outbox'] loop
        execute format('alter table events.%I enable row level security', name);
        execute format(
            'create policy facility on events.%I using (facility = current_setting(''weft.facility'', true)) '
            'with check (facility = current_setting(''weft.facility'', true))', name);
    end loop;
end
$$;

-- What waits as a reference is pending now, in the order in which it waited.
select setval('events.position', (select coalesce(max(position), 0) + 1 from events.event_log_published));

with waiting as materialized (
    select event_id, occurred_at, nextval('events.position') as position, message_id, created_at
    from (select * from events.notice where event_id is not null order by id) o
)
update events.event_log e
set pending = true, position = waiting.position, republished = (waiting.message_id is not null)::int,
    queued_at = waiting.created_at
from waiting where e.id = waiting.event_id and e.occurred_at = waiting.occurred_at;

delete from events.notice where event_id is not null;

-- What brings its own content waits on.
alter table events.notice
    alter column id drop identity,
    drop constraint outbox_content,
    drop column event_id,
    drop column occurred_at,
    alter column message_id set not null,
    alter column subject set not null,
    alter column headers set not null,
    alter column body set not null;
update events.notice set id = id + (select last_value from events.position);
select setval('events.position', greatest((select max(id) from events.notice), (select last_value from events.position)));
alter table events.notice alter column id set default nextval('events.position');

-- What a relay is to publish next: the oldest messages of those of the lanes that are still its own, of all
-- facilities. Events come with what their headers are made of, notices with their headers. A plan that was made while the
-- outbox was short must not sort it when it is long.
drop function events.outbox_page(text, smallint[], bigint);
create function events.outbox_page(relay text, lanes smallint[], at_most bigint)
    returns table (id bigint, lane smallint, message_id text, subject text, body bytea, headers jsonb, event_id uuid,
                   type text, occurred_at timestamptz, facility text, aggregate text, aggregate_id uuid, version bigint,
                   saga_id uuid, causation_id uuid, traceparent text)
    language plpgsql stable security definer
    set search_path = pg_catalog set enable_seqscan = off set enable_sort = off
    as $$
#variable_conflict use_column
declare
    owned smallint[] := array(select substr(l.name, 6)::smallint from events.lease l
                              where l.name = any (select 'lane:' || lane from unnest(lanes) lane)
                                and l.owner = relay and l.until > now());
begin
    return query
        (select e.position, e.lane,
                -- The broker may still remember the event's own id and would drop it.
                case e.republished when 0 then e.id::text else format('again:%s:%s', e.republished, e.id) end,
                e.subject, e.body, null::jsonb, e.id, e.type, e.occurred_at, e.facility, e.aggregate, e.aggregate_id,
                e.version, e.saga_id, e.causation_id, e.traceparent
         from events.outbox e where e.lane = any(owned) order by e.position limit at_most)
        union all
        (select n.id, n.lane, n.message_id, n.subject, n.body, n.headers, null, null, null, null, null, null, null,
                null, null, null
         from events.notice n where n.lane = any(owned) order by n.id limit at_most)
        order by 1
        limit at_most;
end
$$;

-- The broker has these: events go to their day, notices go. Needs no fence: it is so, whoever owns their lanes by now.
create function events.acknowledged(positions bigint[]) returns void
    language plpgsql security definer set search_path = pg_catalog
    as $$
begin
    update events.event_log set pending = false where pending and position = any(positions);
    delete from events.notice where id = any(positions);
end
$$;

-- Makes published events pending again, at the places they had, ahead of what is newer: all since a time, or the given
-- ones of them. Returns how many.
create or replace function events.requeue(since timestamptz, only_ids uuid[]) returns bigint
    language sql security definer set search_path = pg_catalog
    as $$
        with queued as (
            update events.event_log
            set pending = true, republished = republished + 1, queued_at = clock_timestamp()
            where not pending and occurred_at >= since and (only_ids is null or id = any(only_ids))
            returning 1
        )
        select count(*) from queued
    $$;

-- How much waits to be published, of all facilities, and since when.
create function events.outbox_depth() returns table (depth bigint, since timestamptz)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select count(*), min(at)
        from (select queued_at as at from events.outbox union all select created_at from events.notice) waiting
    $$;

-- How many events of all facilities wait that happened since a time.
create function events.pending_since(since timestamptz) returns bigint
    language sql stable security definer set search_path = pg_catalog
    as $$ select count(*) from events.outbox where occurred_at >= since $$;

drop function events.log_page(timestamptz, uuid, timestamptz, integer);

-- Pages through the published events of all facilities in the order of (occurred_at, id): comparing them with the stream
-- is nobody's in particular.
create function events.log_page(after_at timestamptz, after_id uuid, until_at timestamptz, at_most integer)
    returns table (occurred_at timestamptz, id uuid)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select occurred_at, id from events.event_log_published
        where (occurred_at, id) > (after_at, after_id) and occurred_at < until_at
        order by occurred_at, id
        limit at_most
    $$;

-- As before, for the published part.
create or replace function events.create_partitions(days_ahead integer) returns integer
    language plpgsql security definer set search_path = pg_catalog
    as $$
declare
    day   date;
    name  text;
    made  integer := 0;
begin
    for offset_days in 0 .. least(greatest(days_ahead, 0), 30) loop
        day := (now() at time zone 'utc')::date + offset_days;
        name := 'event_log_' || to_char(day, 'YYYYMMDD');
        if to_regclass('events.' || name) is null then
            begin
                execute format(
                    'create table events.%I partition of events.event_log_published for values from (%L) to (%L)',
                    name, (day::text || ' 00:00:00+00'), ((day + 1)::text || ' 00:00:00+00'));
                made := made + 1;
            exception
                -- Two processes at once, or the default partition already holds rows of that day and keeps the rest.
                when duplicate_table or check_violation then null;
            end;
        end if;
    end loop;
    return made;
end
$$;

-- Drops whole days of the published log that are older than `kept_days`, and what is as old in the default partition. What
-- is pending stays, however old it is.
create or replace function events.drop_partitions(kept_days integer) returns integer
    language plpgsql security definer set search_path = pg_catalog
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
            execute format('drop table events.%I', part.relname);
            dropped := dropped + 1;
        end if;
    end loop;
    delete from events.event_log_default where occurred_at < kept::timestamp at time zone 'utc';
    return dropped;
end
$$;

do $$
declare
    app text := chassis.app_role();
    fn  text;
begin
    execute format('revoke all on events.event_log_published, events.notice from %I', app);
    execute format('grant select on events.event_log to %I', app);
    execute format('grant insert on events.outbox, events.notice to %I', app);
    execute format('grant usage on sequence events.position to %I', app);
    foreach fn in array array[
        'outbox_page(text, smallint[], bigint)', 'acknowledged(bigint[])', 'outbox_depth()',
        'pending_since(timestamptz)',
        'log_page(timestamptz, uuid, timestamptz, integer)'
    ] loop
        execute format('revoke all on function events.%s from public', fn);
        execute format('grant execute on function events.%s to %I', fn, app);
    end loop;
end
$$;
