-- The built-in sandbox processor's own records. It imitates an outside party: nothing of the payment schema refers to
-- them, and they are never written in a transaction of the payment service.

create schema sandbox;

-- Every authorization that was ever asked for, by the key that it was asked with.
create table sandbox.card_authorization (
    key         text        primary key,
    reference   text        not null unique,
    token       text        not null,
    -- What the merchant named the charge by: the order and the purpose.
    merchant_reference text not null,
    currency    text        not null,
    amount      bigint      not null check (amount >= 0),
    -- LOST never reached the card network. CLOSED was voided before it arrived.
    outcome     text        not null check (outcome in ('APPROVED', 'REFUSED', 'LOST', 'CLOSED')),
    reason      text        not null default '',
    captured    bigint      not null default 0 check (captured between 0 and amount),
    refunded    bigint      not null default 0 check (refunded between 0 and captured),
    voided      boolean     not null default false,
    -- How often it was asked for; it took effect once.
    requests    integer     not null default 1,
    -- Before this time the network is still working on it.
    answers_at  timestamptz not null default now(),
    created_at  timestamptz not null default now(),
    check (not voided or captured = 0)
);

create index card_authorization_merchant on sandbox.card_authorization (merchant_reference);

-- Every capture, void and refund, by its key.
create table sandbox.card_operation (
    key               text        primary key,
    authorization_key text        not null references sandbox.card_authorization (key),
    kind              text        not null check (kind in ('CAPTURE', 'VOID', 'REFUND')),
    amount            bigint      not null check (amount >= 0),
    outcome           text        not null check (outcome in ('APPROVED', 'REFUSED')),
    reason            text        not null default '',
    requests          integer     not null default 1,
    answers_at        timestamptz not null default now(),
    created_at        timestamptz not null default now()
);

-- What the card holder sees: how often, and how much, a card was really charged for an order.
create view sandbox.card_statement as
    select merchant_reference, currency,
           count(*) filter (where outcome = 'APPROVED' and not voided)       as holds,
           coalesce(sum(amount) filter (where outcome = 'APPROVED' and not voided), 0)::bigint as held,
           count(*) filter (where captured > 0)                             as charges,
           coalesce(sum(captured), 0)::bigint                               as charged,
           coalesce(sum(refunded), 0)::bigint                               as given_back
    from sandbox.card_authorization
    group by merchant_reference, currency;

do $$
declare app text := chassis.app_role();
begin
    execute format('grant usage on schema sandbox to %I', app);
    execute format('grant select, insert, update on sandbox.card_authorization, sandbox.card_operation to %I', app);
    execute format('grant select on sandbox.card_statement to %I', app);
end
$$;
