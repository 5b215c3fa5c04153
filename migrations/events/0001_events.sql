-- The event backbone's half that lives in every service's database: what happened, what is still to be published, what
-- has taken effect, and what could not.

create schema events;

-- Everything that ever happened here. Append-only, and the truth: the broker's stream is a copy of it.
create table events.event_log (
    occurred_at  timestamptz not null default now(),
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
    -- CloudEvents and trace headers as they are published.
    headers      jsonb       not null,
    body         bytea       not null,
    primary key (id, occurred_at)
) partition by range (occurred_at);

-- An event is never refused for want of a partition.
create table events.event_log_default partition of events.event_log default;

create index event_log_aggregate on events.event_log (aggregate_id, version);
create index event_log_age on events.event_log (occurred_at);

alter table events.event_log enable row level security;
create policy facility on events.event_log
    using (facility = current_setting('weft.facility', true))
    with check (facility = current_setting('weft.facility', true));

-- Rows wait here until the broker has acknowledged them; then they are deleted, never updated.
create table events.outbox (
    id           bigint      generated always as identity primary key,
    -- The aggregate's lane: one relay owns it at a time, so that order survives.
    lane         smallint    not null check (lane between 0 and 15),
    -- `Nats-Msg-Id`.
    message_id   text        not null,
    subject      text        not null,
    aggregate_id uuid        not null,
    headers      jsonb       not null,
    body         bytea       not null,
    created_at   timestamptz not null default clock_timestamp()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000);

create index outbox_lane on events.outbox (lane, id);

-- One row per consumer and event that took effect, written in the transaction of the effect.
create table events.inbox (
    consumer    text        not null,
    event_id    uuid        not null,
    received_at timestamptz not null default now(),
    primary key (consumer, event_id)
);

create index inbox_age on events.inbox (received_at);

-- What a consumer started or failed and has not finished yet.
create table events.failure (
    consumer        text        not null,
    event_id        uuid        not null,
    -- Attempts that ended with an error.
    failures        integer     not null default 0,
    -- Attempts of which the start was recorded and the end was not: the process may have died in them.
    unfinished      integer     not null default 0,
    first_at        timestamptz not null default now(),
    last_at         timestamptz not null default now(),
    next_at         timestamptz not null default now(),
    code            text        not null default '',
    message         text        not null default '',
    primary key (consumer, event_id)
);

-- Exclusive work by time-bounded lease. The epoch grows with every change of owner and fences the previous one off.
create table events.lease (
    name  text        primary key,
    owner text        not null,
    epoch bigint      not null,
    until timestamptz not null
);

-- Consumers, so that an operator can hold one.
create table events.consumer (
    name       text        primary key,
    paused     boolean     not null default false,
    changed_by text        not null default '',
    reason     text        not null default '',
    changed_at timestamptz not null default now()
);

-- Events that a consumer gave up on.
create table events.dead_letter (
    id               uuid        primary key,
    facility         text        not null,
    state            text        not null check (state in ('open', 'replaying', 'resolved', 'discarded')),
    consumer         text        not null,
    event_id         uuid        not null,
    message_id       text        not null,
    type             text        not null,
    subject          text        not null,
    stream           text        not null,
    stream_sequence  bigint      not null,
    aggregate        text        not null,
    aggregate_id     uuid        not null,
    version          bigint      not null,
    saga_id          uuid,
    causation_id     uuid,
    trace_id         text        not null default '',
    headers          jsonb       not null,
    body             bytea       not null,
    error_class      text        not null check (error_class in ('permanent', 'schema', 'crash', 'exhausted')),
    error_code       text        not null,
    error_message    text        not null,
    fingerprint      text        not null,
    attempts         integer     not null,
    first_failure_at timestamptz not null,
    last_failure_at  timestamptz not null,
    -- The dead letter that it had waited behind before it failed itself.
    parked_behind    uuid,
    handler_version  text        not null,
    replay_count     integer     not null default 0,
    replay_run_id    uuid,
    created_at       timestamptz not null default now(),
    resolved_at      timestamptz,
    discard_reason   text        not null default '',
    unique (consumer, event_id),
    check ((state in ('resolved', 'discarded')) = (resolved_at is not null))
);

create index dead_letter_newest on events.dead_letter (facility, created_at desc, id desc);
create index dead_letter_open on events.dead_letter (facility, fingerprint) where state in ('open', 'replaying');
create index dead_letter_run on events.dead_letter (replay_run_id) where replay_run_id is not null;

-- Aggregates that are held for a consumer, because an earlier event of theirs is dead.
create table events.parked_key (
    consumer       text        not null,
    aggregate_id   uuid        not null,
    facility       text        not null,
    -- The head: what the rest waits behind.
    dead_letter_id uuid        not null references events.dead_letter (id),
    since          timestamptz not null default now(),
    primary key (consumer, aggregate_id)
);

create index parked_key_head on events.parked_key (dead_letter_id);

-- The later events of those aggregates, in order.
create table events.parked (
    id              bigint      generated always as identity primary key,
    consumer        text        not null,
    aggregate_id    uuid        not null,
    facility        text        not null,
    event_id        uuid        not null,
    message_id      text        not null,
    subject         text        not null,
    stream          text        not null,
    stream_sequence bigint      not null,
    headers         jsonb       not null,
    body            bytea       not null,
    parked_at       timestamptz not null default now(),
    unique (consumer, event_id)
);

create index parked_order on events.parked (consumer, aggregate_id, id);

-- Replays of whole groups, at a rate.
create table events.replay_run (
    id          uuid        primary key,
    facility    text        not null,
    fingerprint text        not null,
    mode        text        not null check (mode in ('straight', 'canary')),
    rate        integer     not null check (rate between 1 and 1000),
    state       text        not null check (state in ('running', 'finished', 'stopped')),
    actor       text        not null,
    total       integer     not null,
    created_at  timestamptz not null default now()
);

-- What operators did, and the answer that a repeated request gets again. Append-only.
create table events.operator_action (
    id             bigint      generated always as identity primary key,
    facility       text        not null,
    action         text        not null,
    request_id     uuid        not null,
    request_hash   bytea       not null,
    answer         bytea       not null,
    actor          text        not null,
    dead_letter_id uuid,
    replay_run_id  uuid,
    detail         text        not null default '',
    created_at     timestamptz not null default now(),
    unique (facility, action, request_id)
);

create index operator_action_dead_letter on events.operator_action (dead_letter_id, id);

do $$
declare name text;
begin
    foreach name in array array['dead_letter', 'parked_key', 'parked', 'replay_run', 'operator_action'] loop
        execute format('alter table events.%I enable row level security', name);
        execute format(
            'create policy facility on events.%I using (facility = current_setting(''weft.facility'', true)) '
            'with check (facility = current_setting(''weft.facility'', true))', name);
    end loop;
end
$$;

-- Creates the log's partitions for today and the days ahead. Runs as the owner: the service may not create tables.
create function events.create_partitions(days_ahead integer) returns integer
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
                    'create table events.%I partition of events.event_log for values from (%L) to (%L)',
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

-- Drops whole days of the log that are older than `kept_days`. A day with an unpublished event stays.
create function events.drop_partitions(kept_days integer) returns integer
    language plpgsql security definer set search_path = pg_catalog
    as $$
declare
    part    record;
    oldest  timestamptz;
    dropped integer := 0;
begin
    select min(created_at) into oldest from events.outbox;
    for part in
        select c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') as day
        from pg_class c join pg_inherits i on i.inhrelid = c.oid
        where i.inhparent = 'events.event_log'::regclass and c.relname ~ '^event_log_[0-9]{8}$'
    loop
        if part.day < (now() at time zone 'utc')::date - greatest(kept_days, 1)
           and (oldest is null or part.day + 1 < oldest::date) then
            execute format('drop table events.%I', part.relname);
            dropped := dropped + 1;
        end if;
    end loop;
    return dropped;
end
$$;

-- Pages through the log of all facilities in the order of (occurred_at, id): comparing it with the stream and
-- rebuilding the stream are nobody's in particular.
create function events.log_page(after_at timestamptz, after_id uuid, until_at timestamptz, at_most integer)
    returns setof events.event_log
    language sql stable security definer set search_path = pg_catalog
    as $$
        select * from events.event_log
        where (occurred_at, id) > (after_at, after_id) and occurred_at < until_at
        order by occurred_at, id
        limit at_most
    $$;

-- Depth and age of the dead letters of all facilities, for metrics.
create function events.dead_letter_depth()
    returns table (consumer text, error_class text, open bigint, oldest_seconds double precision)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select consumer, error_class, count(*), coalesce(extract(epoch from now() - min(created_at)), 0)::float8
        from events.dead_letter where state in ('open', 'replaying')
        group by consumer, error_class
    $$;

-- Runs that are to go on, of all facilities.
create function events.running_replays() returns table (id uuid, facility text)
    language sql stable security definer set search_path = pg_catalog
    as $$ select id, facility from events.replay_run where state = 'running' order by created_at limit 100 $$;

select events.create_partitions(7);

do $$
declare
    app text := chassis.app_role();
    fn  text;
begin
    execute format('grant usage on schema events to %I', app);
    execute format('grant select, insert on events.event_log, events.operator_action to %I', app);
    execute format('grant select, insert, delete on events.outbox, events.inbox, events.parked to %I', app);
    execute format('grant select, insert, update, delete on events.failure, events.lease, events.parked_key to %I', app);
    execute format('grant select, insert, update on events.consumer, events.dead_letter, events.replay_run to %I', app);
    foreach fn in array array[
        'create_partitions(integer)', 'drop_partitions(integer)',
        'log_page(timestamptz, uuid, timestamptz, integer)', 'dead_letter_depth()', 'running_replays()'
    ] loop
        execute format('revoke all on function events.%s from public', fn);
        execute format('grant execute on function events.%s to %I', fn, app);
    end loop;
end
$$;
