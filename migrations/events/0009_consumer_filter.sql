-- A consumer whose filter gains a subject goes back to the first stored message of it. What it needs to know for that.

set local lock_timeout = '10s';

alter table events.consumer
    -- The subjects of which it has been given everything that is in the stream, or will be. Null: not recorded yet.
    add column subjects text[],
    -- While it catches up: up to this sequence of this stream it had acknowledged everything but these subjects.
    add column catch_up_until bigint,
    add column catch_up_subjects text[] not null default '{}',
    add column catch_up_stream timestamptz,
    -- Inbox rows and dead letters of effects before this time may have been deleted. Null: none has been.
    add column forgotten_until timestamptz;

-- What was deleted before this migration was more than a day old, and older than everything that is left.
update events.consumer
set forgotten_until = least(coalesce((select min(received_at) from events.inbox), now()), now() - interval '1 day');

-- Whoever deletes inbox rows: their time is on record.
create function events.inbox_forgotten() returns trigger
    language plpgsql security definer set search_path = pg_catalog
    as $$
begin
    update events.consumer c
    set forgotten_until = greatest(c.forgotten_until, gone.until)
    from (select consumer, max(received_at) as until from forgotten group by consumer order by consumer) gone
    where c.name = gone.consumer and (c.forgotten_until is null or c.forgotten_until < gone.until);
    return null;
end
$$;

create trigger forgotten after delete on events.inbox
    referencing old table as forgotten
    for each statement execute function events.inbox_forgotten();

-- The same of dead letters: the row of a discarded one is all that keeps its event from taking effect.
create function events.dead_letter_forgotten() returns trigger
    language plpgsql security definer set search_path = pg_catalog
    as $$
begin
    update events.consumer c
    set forgotten_until = greatest(c.forgotten_until, gone.until)
    from (select consumer, max(coalesce(resolved_at, created_at)) as until
          from forgotten group by consumer order by consumer) gone
    where c.name = gone.consumer and (c.forgotten_until is null or c.forgotten_until < gone.until);
    return null;
end
$$;

create trigger forgotten after delete on events.dead_letter
    referencing old table as forgotten
    for each statement execute function events.dead_letter_forgotten();

do $$
begin
    revoke all on function events.inbox_forgotten(), events.dead_letter_forgotten() from public;
end
$$;
