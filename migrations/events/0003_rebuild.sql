-- The stream is a copy of the log: here is how it is made again.

-- The stream as this service last saw it. Another time of creation means that it came back empty.
create table events.stream (
    name       text        primary key,
    created_at timestamptz not null
);

-- Puts logged events into the outbox again, ahead of what waits there: all since a time, or the given ones of them.
-- In the order of the log, and within an aggregate in the order of its versions. Returns how many.
create function events.requeue(since timestamptz, only_ids uuid[]) returns bigint
    language sql security definer set search_path = pg_catalog
    as $$
        with chosen as (
            select e.*,
                   max(occurred_at) over (partition by aggregate_id order by version) as turn
            from events.event_log e
            where occurred_at >= since
              and (only_ids is null or id = any(only_ids))
              and not exists (select from events.outbox o
                              where o.headers ->> 'ce-id' = e.id::text and o.subject = e.subject)
        ), placed as (
            select chosen.*, row_number() over (order by turn, aggregate_id, version) as position,
                   count(*) over () as total
            from chosen
        ), queued as (
            insert into events.outbox (id, lane, message_id, subject, aggregate_id, headers, body)
            overriding system value
            select (select coalesce(min(id), 1) from events.outbox) - total + position - 1,
                   get_byte(uuid_send(aggregate_id), 15) % 16,
                   -- The broker may still remember the event's own id and would drop it.
                   'again:' || id || ':' || txid_current(),
                   subject, aggregate_id, headers, body
            from placed order by position
            returning 1
        )
        select count(*) from queued
    $$;

do $$
begin
    execute format('grant select, insert, update on events.stream to %I', chassis.app_role());
    revoke all on function events.requeue(timestamptz, uuid[]) from public;
    execute format('grant execute on function events.requeue(timestamptz, uuid[]) to %I', chassis.app_role());
end
$$;
