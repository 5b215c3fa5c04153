-- Which dead letters a run replays, and which of them it has sent.

create table events.replay_item (
    run_id         uuid    not null references events.replay_run (id),
    dead_letter_id uuid    not null references events.dead_letter (id),
    facility       text    not null,
    -- The order in which they are sent: oldest first.
    position       integer not null,
    sent_at        timestamptz,
    primary key (run_id, position),
    unique (run_id, dead_letter_id)
);

alter table events.replay_item enable row level security;
create policy facility on events.replay_item
    using (facility = current_setting('weft.facility', true))
    with check (facility = current_setting('weft.facility', true));

alter table events.dead_letter drop column replay_run_id;

-- Identifiers are UUIDs version 7: they sort by age.
drop index events.dead_letter_newest;
create index dead_letter_newest on events.dead_letter (facility, id desc);

do $$
begin
    execute format('grant select, insert, update on events.replay_item to %I', chassis.app_role());
end
$$;
