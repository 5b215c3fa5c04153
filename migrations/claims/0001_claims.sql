-- Claims, what payers sent about them, and what still waits to be matched.

create schema claims;

create table claims.claim (
    id             uuid        primary key,
    facility       text        not null,
    order_id       uuid        not null,
    -- With the facility, the claim's identity for the payer.
    provider_id    text        not null,
    claim_id       text        not null,
    payer_id       text        not null,
    state          text        not null check (state in
        ('DRAFT', 'VALIDATED', 'SUBMITTED', 'ACCEPTED', 'REJECTED', 'RESUBMITTED', 'WITHDRAWN')),
    cycle          integer     not null default 1 check (cycle >= 1),
    -- The encoded claims.v1.ClaimDetails, as last submitted.
    details        bytea       not null,
    id_payer       text        not null default '',
    rejection      text        not null default '',
    version        bigint      not null default 1,
    -- When the post office first took it: from then on remittances are booked on it.
    submitted_at   timestamptz,
    -- Who hands it to the post office at the moment, until when; the epoch fences a late one off.
    filing_epoch   bigint      not null default 0,
    filing_until   timestamptz,
    -- When the background worker is to file it, or to ask after it. Null: not its business.
    next_filing_at timestamptz,
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),
    constraint claim_number_once unique (facility, provider_id, claim_id),
    constraint claim_order_once unique (facility, order_id)
);

create index claim_newest on claims.claim (facility, id desc);
create index claim_due on claims.claim (next_filing_at) where next_filing_at is not null;

create table claims.resubmission (
    facility   text        not null,
    claim      uuid        not null references claims.claim (id),
    -- The cycle that it opened.
    cycle      integer     not null check (cycle >= 2),
    -- The number of claims.v1.ResubmissionType.
    type       integer     not null,
    comment    text        not null,
    attachment bytea       not null,
    created_at timestamptz not null default now(),
    primary key (claim, cycle)
);

-- Orders whose claim was withdrawn before it arrived: a late draft is refused.
create table claims.tombstone (
    facility   text        not null,
    order_id   uuid        not null,
    reason     text        not null,
    created_at timestamptz not null default now(),
    primary key (facility, order_id)
);

create table claims.remittance_file (
    id         uuid        primary key,
    facility   text        not null,
    -- SHA-256 of the file: what makes a file the same file.
    digest     bytea       not null check (octet_length(digest) = 32),
    file_name  text        not null,
    state      text        not null check (state in ('reading', 'ingested', 'failed')),
    -- The encoded claims.v1.RemittanceReport of the first import.
    report     bytea,
    version    bigint      not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint remittance_file_once unique (facility, digest),
    check ((state = 'ingested') = (report is not null))
);

-- What became of each claim of a file, so that a killed import goes on where it was.
create table claims.remittance_claim (
    facility text    not null,
    file     uuid    not null references claims.remittance_file (id),
    -- The claim's place in the file, from 0.
    ordinal  integer not null,
    -- The encoded claims.v1.RemittanceReport of this claim alone.
    report   bytea   not null,
    primary key (file, ordinal)
);

-- What payers paid, took back and denied, as they said it. Append-only, and the truth: what a claim was paid is always
-- derived from these rows.
create table claims.remittance_line (
    id                bigint      generated always as identity primary key,
    facility          text        not null,
    claim             uuid        not null references claims.claim (id),
    file              uuid        not null references claims.remittance_file (id),
    ordinal           integer     not null,
    line              integer     not null,
    activity_id       text        not null,
    -- Minor units; negative for a takeback.
    payment           bigint      not null,
    currency          text        not null check (length(currency) = 3),
    denial_code       text        not null,
    payment_reference text        not null,
    settled_at        timestamptz not null,
    booked_at         timestamptz not null default now(),
    constraint remittance_line_once unique (file, ordinal, line)
);

create index remittance_line_claim on claims.remittance_line (claim, id);

create function claims.refuse_change() returns trigger
    language plpgsql
    as $$ begin raise exception 'remittance lines are append-only' using errcode = 'restrict_violation'; end $$;

create trigger remittance_line_is_append_only
    before update or delete or truncate on claims.remittance_line
    for each statement execute function claims.refuse_change();

-- Lines for a claim or an activity that has not been submitted yet.
create table claims.parked_line (
    id                bigint      generated always as identity primary key,
    facility          text        not null,
    provider_id       text        not null,
    claim_id          text        not null,
    id_payer          text        not null,
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
    constraint parked_line_once unique (file, ordinal, line)
);

create index parked_line_number on claims.parked_line (facility, provider_id, claim_id);

-- The sandbox post office's own memory; it stands for a system elsewhere, so nothing refers to it.
create table claims.sandbox_filing (
    facility      text        not null,
    submission_id uuid        not null,
    -- How often the submission was handed in or asked after.
    calls         integer     not null default 1,
    -- When it was taken; null while the post office plays unavailable.
    filed_at      timestamptz,
    primary key (facility, submission_id)
);

-- Claims of all facilities that the background worker is to file or to ask after. Runs as the owner, whom row-level
-- security exempts.
create function claims.due_filings(at_most integer) returns table (facility text, id uuid)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select c.facility, c.id from claims.claim c
        where c.next_filing_at <= now() and (c.filing_until is null or c.filing_until < now())
        order by c.next_filing_at
        limit at_most
    $$;

do $$
declare
    app  text := chassis.app_role();
    name text;
begin
    foreach name in array array['claim', 'resubmission', 'tombstone', 'remittance_file', 'remittance_claim',
                                'remittance_line', 'parked_line', 'sandbox_filing'] loop
        execute format('alter table claims.%I enable row level security', name);
        execute format(
            'create policy facility on claims.%I using (facility = current_setting(''weft.facility'', true)) '
            'with check (facility = current_setting(''weft.facility'', true))', name);
        execute format('grant select, insert on claims.%I to %I', name, app);
    end loop;
    execute format('grant usage on schema claims to %I', app);
    execute format('grant update on claims.claim, claims.remittance_file, claims.sandbox_filing to %I', app);
    execute format('grant delete on claims.parked_line to %I', app);
    revoke all on function claims.due_filings(integer) from public;
    execute format('grant execute on function claims.due_filings(integer) to %I', app);
end
$$;
