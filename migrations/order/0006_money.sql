-- What a request made carries the request's identity: it has one effect, however late it is repeated. The stored answers
-- are forgotten; this is not. Null in what was made before these columns were there.
alter table orders.placed_order
    add column request_id uuid,
    add column request_hash bytea,
    -- Of what the patient paid too much: given back.
    add column credit_refunded bigint not null default 0,
    -- The last hundredth between the claim and its activities; negative when the payer paid it too much.
    add column rounding bigint not null default 0;

alter table orders.order_refund
    add column request_id uuid,
    add column request_hash bytea;
create unique index order_refund_request on orders.order_refund (facility, request_id) where request_id is not null;

-- What people decided about what was open, each decision once.
create table orders.balance_resolution (
    id           uuid        primary key,
    facility     text        not null,
    order_id     uuid        not null references orders.placed_order (id),
    request_id   uuid        not null,
    request_hash bytea       not null,
    resolution   text        not null check (resolution in ('bill_patient', 'write_off')),
    amount       bigint      not null check (amount > 0),
    reason       text        not null,
    created_at   timestamptz not null default now(),
    constraint balance_resolution_request unique (facility, request_id)
);

create index balance_resolution_order on orders.balance_resolution (order_id);

alter table orders.balance_resolution enable row level security;
create policy facility on orders.balance_resolution
    using (facility = current_setting('weft.facility', true))
    with check (facility = current_setting('weft.facility', true));

-- A visit may cost nothing. What held before holds after, so that no row is looked at.
alter table orders.placed_order drop constraint placed_order_gross_check;
alter table orders.placed_order add constraint placed_order_gross_check check (gross >= 0) not valid;

do $$
begin
    execute format('grant select, insert on orders.balance_resolution to %I', chassis.app_role());
end
$$;
