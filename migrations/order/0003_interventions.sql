-- What operators did to sagas, and what that left open of their orders.

create table orders.saga_action (
    id           uuid        primary key,
    saga_id      uuid        not null references orders.saga (id),
    facility     text        not null,
    kind         text        not null check (kind in ('retried', 'skipped', 'force_completed')),
    step         text        not null,
    compensation boolean     not null,
    -- The subject of the operator's token.
    actor        text        not null,
    reason       text        not null,
    created_at   timestamptz not null default now()
);

create index saga_action_saga on orders.saga_action (saga_id, created_at);

alter table orders.saga_action enable row level security;
create policy facility on orders.saga_action
    using (facility = current_setting('weft.facility', true))
    with check (facility = current_setting('weft.facility', true));

alter table orders.saga_step drop constraint saga_step_state_check;
alter table orders.saga_step
    add constraint saga_step_state_check check (state in ('succeeded', 'failed', 'skipped'));

-- As `order::Remark`, oldest first.
alter table orders.placed_order add column remarks jsonb not null default '[]';

do $$
begin
    execute format('grant select, insert on orders.saga_action to %I', chassis.app_role());
end
$$;
