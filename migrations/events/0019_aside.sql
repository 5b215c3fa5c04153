-- What waits behind a held message is set aside: the relay reads past it once, and not at every look.

set local lock_timeout = '10s';

-- An event of lane n that is set aside is in lane -1 - n. Every row satisfies this: before, a lane was 0 to 15.
alter table events.outbox
    drop constraint outbox_lane_check1,
    add constraint outbox_lane_check check (lane between -16 and 15) not valid;

-- The aggregates of these lanes that have events which are set aside: one search of the index for each.
create function events.aside(lanes smallint[]) returns table (lane smallint, aggregate_id uuid)
    language plpgsql stable security definer
    set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
    set random_page_cost = 0 set seq_page_cost = 0
    as $$
#variable_conflict use_column
begin
    return query
        with recursive found (lane, aggregate_id) as (
            select own.lane,
                   (select o.aggregate_id from events.outbox o where o.lane < 0 and o.lane = -1 - own.lane
                    order by o.aggregate_id limit 1)
            from unnest(lanes) own (lane)
            union all
            select f.lane,
                   (select o.aggregate_id from events.outbox o where o.lane < 0 and o.lane = -1 - f.lane
                    and o.aggregate_id > f.aggregate_id order by o.aggregate_id limit 1)
            from found f where f.aggregate_id is not null
        )
        select f.lane, f.aggregate_id from found f where f.aggregate_id is not null;
end
$$;

-- The first events of each of these lanes that do not wait behind a held one, while any is held. Those that do, and held
-- ones before their time, are set aside on the way, at most some 10,000 of a lane at once. What was set aside and waits no
-- more comes in its place: not before an earlier event of its lane that was not looked at yet.
create function events.publishable(lanes smallint[], share bigint) returns setof bigint
    language plpgsql security definer
    set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
    set enable_mergejoin = off set random_page_cost = 0 set seq_page_cost = 0
    as $$
#variable_conflict use_column
declare
    own   smallint;
    part  record;
    read  bigint;
    free  bigint;
    until bigint;
begin
    foreach own in array lanes loop
        read := 0;
        free := 0;
        until := -9223372036854775808;
        loop
            select count(*) as count, max(e.position) as last,
                   coalesce(array_agg(e.position) filter (where not e.waits), '{}') as free,
                   coalesce(array_agg(e.position) filter (where e.waits), '{}') as waiting
            into part
            from (
                select o.position,
                       exists (select from events.held h where h.kind = 'event' and h.aggregate_id = o.aggregate_id
                               and (h.position < o.position or h.position = o.position and h.next_at > now()))
                       or exists (select from events.outbox a where a.lane < 0 and a.lane = -1 - own
                                  and a.aggregate_id = o.aggregate_id and a.position < o.position) as waits
                from (select position, aggregate_id from events.outbox where lane = own and position > until
                      order by position limit share) o
            ) e;
            if part.waiting <> '{}' then
                update events.outbox set lane = -1 - lane where position = any(part.waiting);
            end if;
            return query select unnest(part.free);
            read := read + part.count;
            free := free + cardinality(part.free);
            until := case when part.count < share then 9223372036854775807 else part.last end;
            exit when part.count < share or free >= share or read >= 10000;
        end loop;
        return query
            select o.position
            from events.aside(array[own]) a
            left join lateral (
                select case when h.next_at > now() then h.position - 1 else h.position end as position
                from events.held h where h.kind = 'event' and h.aggregate_id = a.aggregate_id
                order by h.position limit 1
            ) up_to on true
            cross join lateral (
                select o.position from events.outbox o
                where o.lane < 0 and o.lane = -1 - a.lane and o.aggregate_id = a.aggregate_id
                  and o.position <= least(up_to.position, until)
                order by o.position limit share
            ) o
            order by 1
            limit share;
    end loop;
end
$$;

-- As before. A lane is read by its own index: pages cost nothing here, so that the plan which touches the fewest rows wins.
create or replace function events.outbox_page(relay text, lanes smallint[], at_most bigint)
    returns table (id bigint, lane smallint, message_id text, subject text, body bytea, headers jsonb, event_id uuid,
                   type text, occurred_at timestamptz, facility text, aggregate text, aggregate_id uuid, version bigint,
                   saga_id uuid, causation_id uuid, traceparent text, attempts integer)
    language plpgsql volatile security definer
    set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
    set enable_mergejoin = off set random_page_cost = 0 set seq_page_cost = 0
    as $$
#variable_conflict use_column
declare
    owned smallint[] := array(select substr(l.name, 6)::smallint from events.lease l
                              where l.name = any (select 'lane:' || lane from unnest(lanes) lane)
                                and l.owner = relay and l.until > now());
    share bigint := least(at_most, greatest(64, 2 * at_most / greatest(cardinality(owned), 1)));
    blocked boolean := exists (select from events.held where kind = 'event')
                       or exists (select from events.outbox where lane < 0);
    unblocked bigint[];
begin
    if blocked then
        unblocked := array(select events.publishable(owned, share));
    end if;
    return query
        with page as materialized (
            select waiting.position, waiting.is_event
            from (
                select unnest(unblocked) as position, true as is_event
                union all
                select e.position, true
                from unnest(owned) own cross join lateral (
                    select o.position from events.outbox o where o.lane = own order by o.position limit share) e
                where not blocked
                union all
                select n.id, false
                from unnest(owned) own cross join lateral (
                    select n.id from events.notice n
                    where n.lane = own and not exists (
                        select from events.held h where h.position = n.id and h.next_at > now())
                    order by n.id limit share) n
            ) waiting
            order by 1
            limit at_most
        )
        (select e.position, greatest(e.lane, -1 - e.lane)::smallint,
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

-- As before; an event that was set aside has its lane back.
create or replace function events.acknowledged(positions bigint[]) returns void
    language plpgsql security definer set search_path = pg_catalog set enable_seqscan = off
    as $$
begin
    update events.event_log set pending = false, lane = greatest(lane, -1 - lane)
    where pending and position = any(positions);
    delete from events.notice where id = any(positions);
    delete from events.held where position = any(positions);
end
$$;

-- As before; an event that was set aside has its lane back.
create or replace function events.discard_held(held_position bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog
    as $$
declare
    replayed text;
begin
    if not exists (select from events.held where position = held_position) then
        return false;
    end if;
    update events.event_log set pending = false, withheld = true, lane = greatest(lane, -1 - lane)
    where pending and position = held_position;
    delete from events.notice where id = held_position
    returning case when subject like 'retry.%' then headers ->> 'weft-dead-letter' end into replayed;
    update events.dead_letter set state = 'open' where id::text = replayed and state = 'replaying';
    delete from events.held where position = held_position;
    return true;
end
$$;

alter function events.hold(bigint[], text[], text[], bigint[], double precision, integer)
    set enable_seqscan = off;

-- As before, without reading what waits behind held messages.
create or replace function events.outbox_depth() returns table (depth bigint, since timestamptz)
    language plpgsql stable security definer
    set search_path = pg_catalog set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
    set enable_mergejoin = off set random_page_cost = 0 set seq_page_cost = 0
    as $$
#variable_conflict use_column
declare
    own_lanes smallint[] := array(select generate_series(0, 15));
    pending   bigint := (select count(*) from (select from events.outbox limit 100001) o);
    notices   bigint := (select count(*) from (select from events.notice limit 100001) n);
begin
    if pending > 100000 then
        pending := greatest(pending, pg_stat_get_live_tuples('events.outbox'::regclass));
    end if;
    if notices > 100000 then
        notices := greatest(notices, pg_stat_get_live_tuples('events.notice'::regclass));
    end if;
    return query
        select pending + notices,
               least(
                   -- What comes behind a held event is set aside at the relay's next look.
                   (select min(first.queued_at) from unnest(own_lanes) own cross join lateral (
                        select o.queued_at
                        from (select * from events.outbox where lane = own order by position limit 1000) o
                        where not exists (select from events.held h where h.kind = 'event'
                                          and h.aggregate_id = o.aggregate_id and h.position <= o.position)
                        order by o.position limit 1) first),
                   (select min(first.queued_at) from events.aside(own_lanes) a cross join lateral (
                        select o.position, o.queued_at from events.outbox o
                        where o.lane < 0 and o.lane = -1 - a.lane and o.aggregate_id = a.aggregate_id
                        order by o.position limit 1) first
                    where not exists (select from events.held h where h.kind = 'event'
                                      and h.aggregate_id = a.aggregate_id and h.position <= first.position)),
                   (select n.created_at from events.notice n
                    where not exists (select from events.held h where h.position = n.id)
                    order by n.id limit 1));
end
$$;

do $$
begin
    revoke all on function events.aside(smallint[]), events.publishable(smallint[], bigint) from public;
end
$$;
