-- Orders, what was given back of them, and the sagas that work on them.

create schema orders;

create table orders.placed_order (
    id                  uuid        primary key,
    facility            text        not null,
    -- The caller's own number; empty when there is none.
    reference           text        not null,
    patient_id          text        not null,
    currency            text        not null check (currency ~ '^[A-Z]{3}$'),
    -- All amounts are minor units of the currency.
    gross               bigint      not null check (gross > 0),
    patient_share       bigint      not null check (patient_share >= 0),
    payer_net           bigint      not null check (payer_net >= 0),
    other_payer         bigint      not null check (other_payer >= 0),
    -- The insurer whom the claim goes to; empty for a self-pay order.
    payer_id            text        not null,
    immediate           boolean     not null,
    payment_method      text        not null,
    state               text        not null check (state in (
                            'pending', 'awaiting_payment', 'confirmed', 'fulfilled', 'settled', 'rejected', 'expired',
                            'cancelling', 'cancelled', 'balance_due', 'returned')),
    payment_id          uuid,
    claim_id            uuid,
    -- Why it does not go on: reason, message and violations.
    failure             jsonb,
    payer_paid          bigint      not null default 0,
    transferred         bigint      not null default 0 check (transferred >= 0),
    payer_written_off   bigint      not null default 0 check (payer_written_off >= 0),
    patient_written_off bigint      not null default 0 check (patient_written_off >= 0),
    balance_paid        bigint      not null default 0 check (balance_paid >= 0),
    payer_returned      bigint      not null default 0,
    patient_returned    bigint      not null default 0 check (patient_returned >= 0),
    hold                text        not null default '' check (hold in ('', 'resubmission', 'review')),
    -- Where each activity of the claim stands, as the last remittance told it.
    activities          jsonb       not null default '[]',
    -- The claim's version of the last claim event that took effect.
    claim_version       bigint      not null default 0,
    refunded            bigint      not null default 0 check (refunded >= 0),
    refund_count        integer     not null default 0,
    saga_id             uuid        not null,
    -- A saga that decides the state is under way: no other may begin.
    busy                boolean     not null,
    version             bigint      not null,
    expires_at          timestamptz,
    created_at          timestamptz not null,
    updated_at          timestamptz not null,
    check (gross = patient_share + payer_net + other_payer),
    check (refunded <= patient_share + balance_paid)
);

create unique index placed_order_reference on orders.placed_order (facility, reference) where reference <> '';
create index placed_order_newest on orders.placed_order (facility, id desc);
create index placed_order_state on orders.placed_order (facility, state, id desc);
create index placed_order_patient on orders.placed_order (facility, patient_id, id desc) where patient_id <> '';

-- Written beside their order only, which is never deleted: a foreign key would be checked a thousand times for nothing.
create table orders.order_line (
    order_id    uuid    not null,
    number      integer not null check (number > 0),
    facility    text    not null,
    code        text    not null,
    description text    not null,
    -- A decimal number; nothing is computed with it here.
    quantity    text    not null,
    amount      bigint  not null check (amount >= 0),
    primary key (order_id, number)
);

create index order_line_code on orders.order_line (facility, code, order_id);

-- The claim as it was ordered, encoded `claims.v1.ClaimDetails`, for a saga that is resumed.
create table orders.order_claim (
    order_id uuid  primary key references orders.placed_order (id),
    facility text  not null,
    details  bytea not null
);

create table orders.order_refund (
    id         uuid        primary key,
    order_id   uuid        not null references orders.placed_order (id),
    facility   text        not null,
    reference  text        not null,
    reason     text        not null,
    -- Taken from the payment of the share, and from that of the balance.
    share      bigint      not null check (share >= 0),
    balance    bigint      not null check (balance >= 0),
    -- It returns the whole order and with it the claim.
    whole      boolean     not null,
    state      text        not null check (state in ('pending', 'done', 'failed')),
    saga_id    uuid        not null,
    created_at timestamptz not null
);

create index order_refund_order on orders.order_refund (order_id, created_at);
create unique index order_refund_reference on orders.order_refund (order_id, reference)
    where reference <> '' and state <> 'failed';

create table orders.refund_line (
    refund_id uuid    not null references orders.order_refund (id),
    number    integer not null,
    facility  text    not null,
    quantity  text    not null,
    amount    bigint  not null check (amount >= 0),
    primary key (refund_id, number)
);

create table orders.saga (
    id          uuid        primary key,
    facility    text        not null,
    kind        text        not null check (kind in ('place_order', 'fulfil_order', 'cancel_order', 'refund_order')),
    order_id    uuid        not null references orders.placed_order (id),
    -- What a refund_order saga gives back.
    refund_id   uuid,
    -- The steps, fixed when it begins: a later release does not change a saga that is under way.
    plan        text[]      not null,
    -- Which of them it is at, from 0.
    position    integer     not null check (position >= 0),
    -- It undoes its steps.
    backward    boolean     not null default false,
    state       text        not null check (state in (
                    'running', 'waiting', 'compensating', 'completed', 'compensated', 'stuck')),
    reason      text        not null default '',
    attempts    integer     not null default 0,
    version     bigint      not null,
    lease_owner uuid,
    lease_until timestamptz,
    -- Grows with every change of owner; a write with an older one is refused.
    lease_epoch bigint      not null default 1,
    wake_at     timestamptz,
    -- When a worker may take it: its lease has run out and its time has come. Null once it has ended.
    due_at      timestamptz generated always as (greatest(lease_until, wake_at)) stored,
    deadline_at timestamptz not null,
    -- When the current step was begun.
    begun_at    timestamptz not null,
    created_at  timestamptz not null,
    updated_at  timestamptz not null
);

create index saga_due on orders.saga (due_at) where due_at is not null;
create index saga_order on orders.saga (order_id);
create index saga_newest on orders.saga (facility, id desc);
create index saga_stuck on orders.saga (facility, id desc) where state = 'stuck';

-- Steps that have ended; the one that is under way is `saga.position`.
create table orders.saga_step (
    saga_id      uuid        not null references orders.saga (id),
    step         text        not null,
    compensation boolean     not null,
    facility     text        not null,
    state        text        not null check (state in ('succeeded', 'failed')),
    result       text        not null,
    attempts     integer     not null,
    begun_at     timestamptz not null,
    ended_at     timestamptz not null,
    primary key (saga_id, step, compensation)
);

do $$
declare name text;
begin
    foreach name in array array[
        'placed_order', 'order_line', 'order_claim', 'order_refund', 'refund_line', 'saga', 'saga_step'] loop
        execute format('alter table orders.%I enable row level security', name);
        execute format(
            'create policy facility on orders.%I using (facility = current_setting(''weft.facility'', true)) '
            'with check (facility = current_setting(''weft.facility'', true))', name);
    end loop;
end
$$;

-- Takes sagas that are due, of all facilities, and fences their former owners off. Runs as the owner of the tables,
-- whom row-level security exempts.
create function orders.claim_due_sagas(owner uuid, lease interval, at_most integer)
    returns table (id uuid, facility text)
    language sql security definer set search_path = pg_catalog
    as $$
        with due as (
            select s.id from orders.saga s
            where s.due_at <= now()
            order by s.due_at
            limit at_most
            for update skip locked
        )
        update orders.saga s
        set lease_owner = owner, lease_until = now() + lease, lease_epoch = s.lease_epoch + 1, wake_at = null
        from due where s.id = due.id
        returning s.id, s.facility
    $$;

-- How many sagas of all facilities need a person, and how many are overdue, for metrics.
create function orders.saga_backlog() returns table (stuck bigint, overdue bigint)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select count(*) filter (where state = 'stuck'), count(*) filter (where deadline_at < now())
        from orders.saga where due_at is not null
    $$;

do $$
declare app text := chassis.app_role();
begin
    revoke all on function orders.claim_due_sagas(uuid, interval, integer) from public;
    revoke all on function orders.saga_backlog() from public;
    execute format('grant usage on schema orders to %I', app);
    execute format('grant select, insert on orders.order_line, orders.order_claim, orders.refund_line to %I', app);
    execute format(
        'grant select, insert, update on orders.placed_order, orders.order_refund, orders.saga, orders.saga_step to %I', app);
    execute format('grant execute on function orders.claim_due_sagas(uuid, interval, integer) to %I', app);
    execute format('grant execute on function orders.saga_backlog() to %I', app);
end
$$;
