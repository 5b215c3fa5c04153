-- Lines that wait for somebody's decision, and lines that are not to be booked at all, have a table of their own: the
-- version before books whatever is parked once the claim is filed, and must not see them.

set local lock_timeout = '10s';

create table claims.held_line (
    -- Unique among parked lines, too.
    id                bigint      primary key default nextval(pg_get_serial_sequence('claims.parked_line', 'id')),
    facility          text        not null,
    provider_id       text        not null,
    claim_id          text        not null,
    id_payer          text        not null,
    sender_id         text        not null,
    file              uuid        not null references claims.remittance_file (id),
    ordinal           integer     not null,
    line              integer     not null,
    activity_id       text        not null,
    payment           bigint      not null,
    currency          text        not null check (length(currency) = 3),
    denial_code       text        not null,
    payment_reference text        not null,
    settled_at        timestamptz not null,
    parked_at         timestamptz not null default now(),
    -- EARLY only of a line that was discarded while it waited for its claim.
    reason            text        not null check (reason in ('EARLY', 'FOREIGN_SENDER', 'REPEATED')),
    discarded_at      timestamptz,
    discard_reason    text        not null default '',
    constraint held_line_once unique (file, ordinal, line),
    constraint held_line_early check (reason <> 'EARLY' or discarded_at is not null)
);

create index held_line_number on claims.held_line (facility, provider_id, claim_id);
create index held_line_open on claims.held_line (facility, id) where discarded_at is null;

alter table claims.held_line enable row level security;
create policy facility on claims.held_line
    using (facility = current_setting('weft.facility', true))
    with check (facility = current_setting('weft.facility', true));

with moved as (
    delete from claims.parked_line where reason <> 'EARLY' or discarded_at is not null returning *
)
insert into claims.held_line (id, facility, provider_id, claim_id, id_payer, sender_id, file, ordinal, line, activity_id,
                              payment, currency, denial_code, payment_reference, settled_at, parked_at, reason,
                              discarded_at, discard_reason)
select id, facility, provider_id, claim_id, id_payer, sender_id, file, ordinal, line, activity_id, payment, currency,
       denial_code, payment_reference, settled_at, parked_at, reason, discarded_at, discard_reason
from moved;

-- All lines that are not booked and not discarded.
create view claims.unbooked_line with (security_invoker = true) as
select id, facility, provider_id, claim_id, id_payer, sender_id, file, ordinal, line, activity_id, payment, denial_code,
       payment_reference, settled_at, parked_at, reason
from claims.parked_line where discarded_at is null
union all
select id, facility, provider_id, claim_id, id_payer, sender_id, file, ordinal, line, activity_id, payment, denial_code,
       payment_reference, settled_at, parked_at, reason
from claims.held_line where discarded_at is null;

do $$
declare
    app text := chassis.app_role();
begin
    execute format('grant select, insert, update, delete on claims.held_line to %I', app);
    execute format('grant select on claims.unbooked_line to %I', app);
    execute format('grant usage on sequence claims.parked_line_id_seq to %I', app);
end
$$;
