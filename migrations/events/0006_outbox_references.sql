-- An event waits in the outbox as a reference to the log: what a business transaction writes of it, it writes once.
-- Messages that are no events, copies and replays, have no entry in the log and bring their own content.

alter table events.outbox
    add column event_id uuid,
    add column occurred_at timestamptz,
    -- Those of an event are the log's. A message id of its own has an event that is published again.
    alter column message_id drop not null,
    alter column subject drop not null,
    alter column aggregate_id drop not null,
    alter column headers drop not null,
    alter column body drop not null,
    add constraint outbox_content check (
        case when event_id is null
             then num_nulls(message_id, subject, headers, body) = 0
             else occurred_at is not null end);

-- What a relay is to publish next: the oldest messages of those of the lanes that are still its own. The log is read
-- as its owner, across facilities, and row by row: a plan that was made while the log was small must not scan it later.
create function events.outbox_page(relay text, lanes smallint[], at_most bigint)
    returns table (id bigint, lane smallint, message_id text, subject text, headers jsonb, body bytea)
    language plpgsql stable security definer
    set search_path = pg_catalog set enable_hashjoin = off set enable_mergejoin = off
    as $$
#variable_conflict use_column
begin
    return query
        select o.id, o.lane, coalesce(o.message_id, o.event_id::text), coalesce(o.subject, e.subject),
               coalesce(o.headers, e.headers), coalesce(o.body, e.body)
        from (
            select * from events.outbox
            where lane = any(lanes)
              and lane in (select substr(l.name, 6)::smallint from events.lease l
                           where l.name like 'lane:%' and l.owner = relay and l.until > now())
            order by id
            limit at_most
        ) o
        left join events.event_log e on e.id = o.event_id and e.occurred_at = o.occurred_at
        order by o.id;
end
$$;

-- As before, but the events go by reference.
create or replace function events.requeue(since timestamptz, only_ids uuid[]) returns bigint
    language sql security definer set search_path = pg_catalog
    as $$
        with chosen as (
            select e.*,
                   max(occurred_at) over (partition by aggregate_id order by version) as turn
            from events.event_log e
            where occurred_at >= since
              and (only_ids is null or id = any(only_ids))
              and not exists (select from events.outbox o where o.event_id = e.id)
              and not exists (select from events.outbox o
                              where o.event_id is null and o.headers ->> 'ce-id' = e.id::text and o.subject = e.subject)
        ), placed as (
            select chosen.*, row_number() over (order by turn, aggregate_id, version) as position,
                   count(*) over () as total
            from chosen
        ), queued as (
            insert into events.outbox (id, lane, message_id, event_id, occurred_at)
            overriding system value
            select (select coalesce(min(id), 1) from events.outbox) - total + position - 1,
                   get_byte(uuid_send(aggregate_id), 15) % 16,
                   -- The broker may still remember the event's own id and would drop it.
                   'again:' || id || ':' || txid_current(),
                   id, occurred_at
            from placed order by position
            returning 1
        )
        select count(*) from queued
    $$;

-- As before, but a day also stays while one of its events waits to be published again.
create or replace function events.drop_partitions(kept_days integer) returns integer
    language plpgsql security definer set search_path = pg_catalog
    as $$
declare
    part    record;
    oldest  timestamptz;
    dropped integer := 0;
begin
    select min(least(created_at, occurred_at)) into oldest from events.outbox;
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

do $$
begin
    revoke all on function events.outbox_page(text, smallint[], bigint) from public;
    execute format(
        'grant execute on function events.outbox_page(text, smallint[], bigint) to %I', chassis.app_role());
end
$$;
