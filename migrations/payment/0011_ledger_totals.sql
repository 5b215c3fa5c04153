-- The trial balance without a scan of the whole ledger: totals of the entries up to a number, folded in the background,
-- plus the entries after it. No transaction that books touches these tables.

create table payment.ledger_total (
    facility text    not null,
    currency text    not null,
    account  text    not null,
    -- Minor units, both positive. They may be beyond 64 bits.
    debit    numeric not null,
    credit   numeric not null,
    primary key (facility, currency, account)
);

-- One row: every entry numbered up to this is in `ledger_total`.
create table payment.ledger_folded (
    one       boolean primary key default true check (one),
    folded_to bigint  not null
);
insert into payment.ledger_folded (folded_to) values (0);

alter table payment.ledger_total enable row level security;
create policy facility on payment.ledger_total for select
    using (facility = current_setting('weft.facility', true));

-- Entries are numbered before they commit, so a number may become visible after a larger one. Who wants to fold asks first
-- which is the largest number given out so far and who is writing entries at this moment: once all of those have ended,
-- every entry up to the number is visible or will never be. An insert takes its lock on the table before it takes a
-- number, so nobody is missed.
create function payment.ledger_writers() returns table (numbered_to bigint, writers text[])
    language plpgsql security definer set search_path = pg_catalog
    as $$
begin
    -- The number first, then the writers.
    select case when s.is_called then s.last_value else 0 end into numbered_to from payment.ledger_entry_id_seq s;
    writers := payment.ledger_writers_now();
    return next;
end
$$;

create function payment.ledger_writers_now() returns text[]
    language sql security definer set search_path = pg_catalog
    as $$
        select coalesce(array_agg(l.virtualtransaction), '{}') from pg_locks l
        where l.locktype = 'relation' and l.relation = 'payment.ledger_entry'::regclass
          and l.database = (select d.oid from pg_database d where d.datname = current_database())
          and l.mode = 'RowExclusiveLock' and l.granted
    $$;

-- Folds the next entries, at most `at_most` and none numbered above `upto`; how far it came. Two at once take turns.
create function payment.fold_ledger(upto bigint, at_most integer) returns bigint
    language plpgsql security definer set search_path = pg_catalog
    as $$
declare
    folded  bigint;
    reached bigint;
begin
    select f.folded_to into folded from payment.ledger_folded f for update;
    reached := least(upto, folded + at_most);
    if reached <= folded then
        return folded;
    end if;
    insert into payment.ledger_total as t (facility, currency, account, debit, credit)
    select e.facility, e.currency, e.account,
           coalesce(sum(e.amount) filter (where e.amount > 0), 0),
           coalesce(-sum(e.amount) filter (where e.amount < 0), 0)
    from payment.ledger_entry e
    where e.id > folded and e.id <= reached
    group by e.facility, e.currency, e.account
    on conflict (facility, currency, account) do update
        set debit = t.debit + excluded.debit, credit = t.credit + excluded.credit;
    update payment.ledger_folded set folded_to = reached;
    return reached;
end
$$;

do $$
declare
    app text := chassis.app_role();
    fn  text;
begin
    execute format('grant select on payment.ledger_total, payment.ledger_folded to %I', app);
    foreach fn in array array['ledger_writers()', 'ledger_writers_now()', 'fold_ledger(bigint, integer)'] loop
        execute format('revoke all on function payment.%s from public', fn);
        execute format('grant execute on function payment.%s to %I', fn, app);
    end loop;
end
$$;
