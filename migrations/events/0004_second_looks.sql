-- Edits of dead letters, and what is known of a kind of failure that comes back.

create table events.edit (
    id             uuid        primary key,
    facility       text        not null,
    dead_letter_id uuid        not null references events.dead_letter (id),
    state          text        not null check (state in ('proposed', 'applied', 'replaced')),
    body           bytea       not null,
    -- The body as the event came: the dead letter's own is replaced.
    original_body  bytea       not null,
    reason         text        not null,
    proposed_by    text        not null,
    proposed_at    timestamptz not null default now(),
    approved_by    text        not null default ''
);

create unique index edit_proposed on events.edit (dead_letter_id) where state = 'proposed';
create index edit_latest on events.edit (dead_letter_id, id desc);

alter table events.edit enable row level security;
create policy facility on events.edit
    using (facility = current_setting('weft.facility', true))
    with check (facility = current_setting('weft.facility', true));

alter table events.dead_letter
    -- The build whose replay took effect.
    add column resolved_version text not null default '',
    -- The build that had resolved the latest failure of this kind before this one came.
    add column resolved_before_version text not null default '';

create index dead_letter_kind on events.dead_letter (facility, fingerprint, resolved_at desc nulls last);

do $$
begin
    execute format('grant select, insert, update on events.edit to %I', chassis.app_role());
end
$$;
