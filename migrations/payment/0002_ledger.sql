-- The double-entry ledger. Nothing in it ever changes, and what does not balance does not commit.

create table payment.ledger_transaction (
    id           uuid        primary key,
    facility     text        not null,
    cause        text        not null check (cause in (
        'ORDER_FULFILLED', 'PAYMENT_CAPTURED', 'REMITTANCE_PAID', 'TAKEBACK', 'DENIAL_TRANSFERRED', 'WRITE_OFF',
        'REFUND', 'ORDER_RETURNED')),
    order_id     uuid        not null,
    payment_id   uuid        references payment.payment (id),
    -- The event or request that caused it.
    causation_id uuid        not null,
    -- The event or processor operation that it books: each is booked once.
    source_id    uuid        not null,
    created_at   timestamptz not null default now(),
    constraint ledger_booked_once unique (facility, source_id, cause)
);

create table payment.ledger_entry (
    id             bigint      generated always as identity primary key,
    facility       text        not null,
    transaction_id uuid        not null references payment.ledger_transaction (id),
    order_id       uuid        not null,
    account        text        not null check (account in (
        'PATIENT_RECEIVABLE', 'PAYER_RECEIVABLE', 'CASH', 'PAYER_CASH', 'REVENUE', 'BAD_DEBT')),
    currency       text        not null check (currency ~ '^[A-Z]{3}$'),
    -- Positive is a debit, negative a credit.
    amount         bigint      not null check (amount <> 0),
    created_at     timestamptz not null default now()
);

create index ledger_entry_transaction on payment.ledger_entry (transaction_id);
create index ledger_entry_order on payment.ledger_entry (facility, order_id, id desc);
create index ledger_entry_newest on payment.ledger_entry (facility, id desc);

-- Both run as the owner, so that no row-level rule of the caller hides an entry from the sum.
create function payment.check_ledger_transaction(checked uuid) returns void
    language plpgsql security definer set search_path = pg_catalog
    as $$
begin
    if not exists (select from payment.ledger_entry e where e.transaction_id = checked) then
        raise exception 'ledger transaction % has no entries', checked
            using errcode = 'check_violation', constraint = 'ledger_transaction_balances';
    end if;
    if exists (
        select from payment.ledger_entry e where e.transaction_id = checked
        group by e.currency having sum(e.amount) <> 0
    ) then
        raise exception 'ledger transaction % does not sum to zero', checked
            using errcode = 'check_violation', constraint = 'ledger_transaction_balances';
    end if;
    if exists (
        select from payment.ledger_entry e join payment.ledger_transaction t on t.id = e.transaction_id
        where e.transaction_id = checked and (e.facility, e.order_id) is distinct from (t.facility, t.order_id)
    ) then
        raise exception 'ledger transaction % has entries of another order', checked
            using errcode = 'check_violation', constraint = 'ledger_transaction_balances';
    end if;
end
$$;

create function payment.check_ledger() returns trigger
    language plpgsql security definer set search_path = pg_catalog
    as $$
begin
    perform payment.check_ledger_transaction(case tg_table_name
        when 'ledger_transaction' then (to_jsonb(new) ->> 'id')::uuid
        else (to_jsonb(new) ->> 'transaction_id')::uuid end);
    return null;
end
$$;

create constraint trigger ledger_transaction_balances after insert on payment.ledger_transaction
    deferrable initially deferred for each row execute function payment.check_ledger();
create constraint trigger ledger_entry_balances after insert on payment.ledger_entry
    deferrable initially deferred for each row execute function payment.check_ledger();

create function payment.refuse_ledger_change() returns trigger
    language plpgsql set search_path = pg_catalog
    as $$
begin
    raise exception 'the ledger is immutable: book a transaction that corrects it'
        using errcode = 'integrity_constraint_violation', constraint = 'ledger_immutable';
end
$$;

create trigger ledger_immutable before update or delete or truncate on payment.ledger_transaction
    for each statement execute function payment.refuse_ledger_change();
create trigger ledger_immutable before update or delete or truncate on payment.ledger_entry
    for each statement execute function payment.refuse_ledger_change();

do $$
declare
    app  text := chassis.app_role();
    name text;
begin
    foreach name in array array['ledger_transaction', 'ledger_entry'] loop
        execute format('alter table payment.%I enable row level security', name);
        execute format(
            'create policy facility on payment.%I using (facility = current_setting(''weft.facility'', true)) '
            'with check (facility = current_setting(''weft.facility'', true))', name);
        execute format('grant select, insert on payment.%I to %I', name, app);
    end loop;
    revoke all on function payment.check_ledger_transaction(uuid) from public;
    revoke all on function payment.check_ledger() from public;
end
$$;
