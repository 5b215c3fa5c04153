-- What is deleted by age: each function looks at one page of rows, oldest first, deletes those whose time has come, and
-- says where the next page begins (null: this was the last). A page costs the same however many rows the table holds. They
-- run as the owner, whom row-level security exempts: they delete rows of every facility.

-- Answers. The time counts from the answer; what was never answered belongs to work that may still be resumed and is kept
-- thirty times as long. Rows that are kept for that are stepped over once a sweep, not once a page.
create function chassis.prune_answers(kept interval, after text, at_most integer)
    returns table (deleted bigint, upto text)
    language plpgsql security definer set search_path = pg_catalog
    as $$
begin
    return query
    with page as materialized (
        select i.ctid as address, i.created_at, i.answered_at from chassis.idempotency i
        where i.created_at > coalesce(after::timestamptz, '-infinity') and i.created_at < now() - kept
        order by i.created_at
        limit at_most
        for update skip locked
    ), gone as (
        delete from chassis.idempotency i
        where i.ctid = any (array(
            select page.address from page
            where page.answered_at < now() - kept
               or (page.answered_at is null and page.created_at < now() - 30 * kept)))
        returning 1
    )
    select (select count(*) from gone),
           (select max(page.created_at)::text from page having count(*) = at_most);
end
$$;

-- The audit trail. Thirty days at least stay, whoever asks.
create function chassis.prune_audit(kept interval, after text, at_most integer)
    returns table (deleted bigint, upto text)
    language plpgsql security definer set search_path = pg_catalog
    as $$
begin
    return query
    with page as materialized (
        select a.id, a.at from chassis.audit a
        where a.id > coalesce(after::bigint, 0)
        order by a.id
        limit at_most
    ), gone as (
        delete from chassis.audit a
        where a.id = any (array(
            select page.id from page where page.at < now() - greatest(kept, interval '30 days')))
        returning a.id
    )
    -- A page with a row that stays is the last: rows come in the order of time.
    select (select count(*) from gone),
           (select max(gone.id)::text from gone having count(*) = at_most);
end
$$;

-- For the version before this one, which goes on serving for a while: the same, without reading the whole table.
create or replace function chassis.prune_idempotency(kept interval, at_most integer) returns bigint
    language sql security definer set search_path = pg_catalog
    as $$ select deleted from chassis.prune_answers(kept, null, at_most) $$;

-- Nothing reads it; `audit_call` serves a look at a time.
drop index chassis.audit_facility_at;

do $$
declare
    app text := chassis.app_role();
    fn  text;
begin
    foreach fn in array array['prune_answers', 'prune_audit'] loop
        execute format('revoke all on function chassis.%s(interval, text, integer) from public', fn);
        execute format('grant execute on function chassis.%s(interval, text, integer) to %I', fn, app);
    end loop;
end
$$;
