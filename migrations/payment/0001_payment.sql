-- Payments, what the card processor is asked to do for them, and the double-entry ledger of all money.

create schema payment;

-- At most one per order and purpose. All amounts are minor units of `currency`.
create table payment.payment (
    id                  uuid        primary key,
    facility            text        not null,
    order_id            uuid        not null,
    purpose             text        not null check (purpose in ('SHARE', 'BALANCE')),
    state               text        not null check (state in (
        'CREATED', 'AUTHORIZING', 'AUTHORIZED', 'CAPTURED', 'DECLINED', 'VOIDED', 'EXPIRED', 'UNKNOWN')),
    -- Null only in a tombstone: the payment that it refuses never told its currency.
    currency            text        check (currency ~ '^[A-Z]{3}$'),
    amount              bigint      not null check (amount >= 0),
    authorized          bigint      not null default 0 check (authorized >= 0),
    captured            bigint      not null default 0,
    refunded            bigint      not null default 0,
    method              text        not null default '',
    processor_reference text        not null default '',
    decline_reason      text        not null default '',
    version             bigint      not null check (version > 0),
    expires_at          timestamptz,
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now(),
    constraint payment_order_purpose unique (facility, order_id, purpose),
    constraint payment_captured_within_authorized check (captured between 0 and authorized),
    constraint payment_refunded_within_captured check (refunded between 0 and captured),
    constraint payment_currency_known check (currency is not null or (state = 'VOIDED' and amount = 0))
);

create index payment_newest on payment.payment (facility, id desc);
create index payment_lapsing on payment.payment (expires_at) where state = 'AUTHORIZED';

-- One effect that is wanted of the processor. Its id is the idempotency key of every call made for it, so that
-- however often it is sent, it takes effect once.
create table payment.operation (
    id            uuid        primary key,
    facility      text        not null,
    payment_id    uuid        not null references payment.payment (id),
    kind          text        not null check (kind in ('AUTHORIZE', 'CAPTURE', 'VOID', 'EXPIRE', 'RELEASE', 'REFUND')),
    -- RUNNING: about to be sent. UNKNOWN: sent, no answer. ABANDONED: overtaken by a void.
    state         text        not null check (state in ('RUNNING', 'UNKNOWN', 'SUCCEEDED', 'REFUSED', 'ABANDONED')),
    -- What a request started with this one; a capture that follows an authorization by itself belongs to the latter.
    root_id       uuid        not null references payment.operation (id),
    -- The authorization that is captured, let go or refunded.
    target_id     uuid        references payment.operation (id),
    currency      text        not null check (currency ~ '^[A-Z]{3}$'),
    amount        bigint      not null check (amount >= 0),
    -- Of an authorization: what was taken of it and what of that was given back.
    captured      bigint      not null default 0 check (captured between 0 and amount),
    refunded      bigint      not null default 0 check (refunded between 0 and captured),
    method        text        not null default '',
    -- What the processor is told that an authorization is for.
    merchant_reference text   not null default '',
    reason        text        not null default '',
    -- Of an authorization: whether the capture follows by itself.
    then_capture  boolean     not null default false,
    reference     text        not null default '',
    refusal       text        not null default '',
    -- The request that wants it.
    request_id    uuid        not null,
    attempts      integer     not null default 0,
    -- Nobody else works on it before this time.
    lease_until   timestamptz not null,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    check (kind = 'AUTHORIZE' or not then_capture),
    check (kind = 'AUTHORIZE' or target_id is not null)
);

-- The processor is asked one thing about a payment at a time.
create unique index operation_open on payment.operation (payment_id) where state in ('RUNNING', 'UNKNOWN');
create index operation_due on payment.operation (lease_until) where state in ('RUNNING', 'UNKNOWN');
create index operation_of_payment on payment.operation (payment_id, id);
create index operation_of_root on payment.operation (root_id, id);

create table payment.refund (
    id         uuid        primary key references payment.operation (id),
    facility   text        not null,
    payment_id uuid        not null references payment.payment (id),
    currency   text        not null check (currency ~ '^[A-Z]{3}$'),
    amount     bigint      not null check (amount > 0),
    reason     text        not null,
    state      text        not null check (state in ('PENDING', 'SUCCEEDED', 'FAILED')),
    created_at timestamptz not null default now()
);

create index refund_of_payment on payment.refund (payment_id, id);

do $$
declare
    app  text := chassis.app_role();
    name text;
begin
    execute format('grant usage on schema payment to %I', app);
    foreach name in array array['payment', 'operation', 'refund'] loop
        execute format('alter table payment.%I enable row level security', name);
        execute format(
            'create policy facility on payment.%I using (facility = current_setting(''weft.facility'', true)) '
            'with check (facility = current_setting(''weft.facility'', true))', name);
        execute format('grant select, insert, update on payment.%I to %I', name, app);
    end loop;
end
$$;

-- What waits for the processor, of all facilities, leased to the caller. Runs as the owner, whom row-level security
-- exempts.
create function payment.claim_due_operations(lease interval, at_most integer)
    returns table (operation_id uuid, operation_facility text)
    language sql security definer set search_path = pg_catalog
    as $$
        with due as (
            select id from payment.operation
            where state in ('RUNNING', 'UNKNOWN') and lease_until < clock_timestamp()
            order by lease_until
            limit at_most
            for update skip locked
        )
        update payment.operation o
        set lease_until = clock_timestamp() + lease, attempts = o.attempts + 1
        from due where o.id = due.id
        returning o.id, o.facility
    $$;

-- Authorizations that have lapsed and that nothing is being done about, of all facilities.
create function payment.lapsed_authorizations(at_most integer)
    returns table (payment_id uuid, payment_facility text)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select p.id, p.facility from payment.payment p
        where p.state = 'AUTHORIZED' and p.expires_at < clock_timestamp()
          and not exists (
              select from payment.operation o where o.payment_id = p.id and o.state in ('RUNNING', 'UNKNOWN'))
        order by p.expires_at
        limit at_most
    $$;

do $$
declare
    app text := chassis.app_role();
    fn  text;
begin
    foreach fn in array array[
        'claim_due_operations(interval, integer)', 'lapsed_authorizations(integer)'
    ] loop
        execute format('revoke all on function payment.%s from public', fn);
        execute format('grant execute on function payment.%s to %I', fn, app);
    end loop;
end
$$;
