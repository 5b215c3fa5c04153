-- What every service's database holds for its chassis: the answers already given, and who did what.

create schema chassis;

-- The role that `serve` uses; `migrate` says it in `weft.app_role`. Later migrations grant to it by this name.
create function chassis.app_role() returns text
    language sql stable
    as $$ select coalesce(nullif(current_setting('weft.app_role', true), ''), current_user::text) $$;

-- One row per mutating request, so that its repetition has one effect and one answer.
create table chassis.idempotency (
    facility     text        not null,
    method       text        not null,
    request_id   uuid        not null,
    -- SHA-256 of the request's canonical bytes: another body under the same id is refused.
    request_hash bytea       not null check (octet_length(request_hash) = 32),
    -- What the request made, known before its answer is.
    resource_id  uuid        not null,
    -- The encoded answer; null while the request runs.
    answer       bytea,
    created_at   timestamptz not null default now(),
    answered_at  timestamptz,
    primary key (facility, method, request_id),
    check ((answer is null) = (answered_at is null))
);

create index idempotency_age on chassis.idempotency (created_at);

alter table chassis.idempotency enable row level security;
create policy facility on chassis.idempotency
    using (facility = current_setting('weft.facility', true))
    with check (facility = current_setting('weft.facility', true));

-- Runs as the owner, whom row-level security exempts: it prunes every facility's rows. An unanswered row belongs
-- to work that may still be resumed, so it is kept thirty times as long.
create function chassis.prune_idempotency(kept interval, at_most integer) returns bigint
    language sql security definer set search_path = pg_catalog
    as $$
        with old as (
            select ctid from chassis.idempotency
            where created_at < now() - kept
              and (answer is not null or created_at < now() - 30 * kept)
            order by created_at
            limit at_most
            for update skip locked
        ), pruned as (
            delete from chassis.idempotency using old where idempotency.ctid = old.ctid returning 1
        )
        select count(*) from pruned
    $$;

-- Every call of an audited method, whatever became of it. Append-only for the service.
create table chassis.audit (
    id         bigint      generated always as identity primary key,
    at         timestamptz not null,
    facility   text        not null,
    subject    text        not null,
    -- The calling service, when the token was a service's.
    service    text,
    -- `package.Service/Method`.
    method     text        not null,
    request_id text,
    -- The name of the gRPC status code.
    status     text        not null
);

create index audit_facility_at on chassis.audit (facility, at);

alter table chassis.audit enable row level security;
create policy facility_reads on chassis.audit for select
    using (facility = current_setting('weft.facility', true));
-- Rows of several facilities are written in one batch, after their calls have ended.
create policy anyone_appends on chassis.audit for insert with check (true);

revoke all on function chassis.prune_idempotency(interval, integer) from public;

do $$
begin
    execute format('grant usage on schema chassis to %I', chassis.app_role());
    execute format('grant select, insert, update on chassis.idempotency to %I', chassis.app_role());
    execute format('grant select, insert on chassis.audit to %I', chassis.app_role());
    execute format('grant execute on function chassis.prune_idempotency(interval, integer) to %I', chassis.app_role());
end
$$;
