-- What the ledger is held to is looked at once for all entries of a statement; it was three questions for each row. The rules are
-- the same. Locks are taken in the order in which transactions take them that book.
lock table payment.ledger_transaction, payment.ledger_entry in access exclusive mode;

-- Entries balance within the statement that writes them, in each currency, and belong to a transaction of their order. Runs as
-- the owner, so that no row-level rule of the caller hides a transaction.
create function payment.check_ledger_entries() returns trigger
    language plpgsql security definer set search_path = pg_catalog
    as $$
declare
    broken record;
begin
    select e.transaction_id, sum(e.amount) <> 0 as is_unbalanced into broken
    from added e left join payment.ledger_transaction t on t.id = e.transaction_id
    group by e.transaction_id, e.currency
    having sum(e.amount) <> 0 or bool_or((e.facility, e.order_id) is distinct from (t.facility, t.order_id))
    limit 1;
    if found and broken.is_unbalanced then
        raise exception 'ledger transaction % does not sum to zero', broken.transaction_id
            using errcode = 'check_violation', constraint = 'ledger_transaction_balances';
    elsif found then
        raise exception 'ledger transaction % has entries of another order', broken.transaction_id
            using errcode = 'check_violation', constraint = 'ledger_transaction_balances';
    end if;
    return null;
end
$$;

-- A transaction has entries by the end of the database transaction.
create or replace function payment.check_ledger() returns trigger
    language plpgsql security definer set search_path = pg_catalog
    as $$
begin
    if not exists (
        select from payment.ledger_entry e
        where e.facility = new.facility and e.order_id = new.order_id and e.transaction_id = new.id
    ) then
        raise exception 'ledger transaction % has no entries', new.id
            using errcode = 'check_violation', constraint = 'ledger_transaction_balances';
    end if;
    return null;
end
$$;

drop trigger ledger_transaction_balances on payment.ledger_transaction;
drop trigger ledger_entry_balances on payment.ledger_entry;
drop function payment.check_ledger_transaction(uuid);
create constraint trigger ledger_transaction_balances after insert on payment.ledger_transaction
    deferrable initially deferred for each row execute function payment.check_ledger();
create trigger ledger_entry_balances after insert on payment.ledger_entry
    referencing new table as added for each statement execute function payment.check_ledger_entries();

-- The trigger looks at the same rows, which nobody deletes.
alter table payment.ledger_entry drop constraint ledger_entry_transaction_id_fkey;

-- Only the checks found entries by their transaction.
drop index payment.ledger_entry_transaction;

revoke all on function payment.check_ledger_entries() from public;
