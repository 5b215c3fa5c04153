-- Whose remittance a line was, and why one is not booked.

alter table claims.claim add column remitter_id text not null default '';

-- Empty for lines of before.
alter table claims.remittance_line add column sender_id text not null default '';
alter table claims.parked_line add column sender_id text not null default '';

-- EARLY lines are booked once their claim and activity are filed; the others wait for somebody's decision.
alter table claims.parked_line add column reason text not null default 'EARLY'
    constraint parked_line_reason check (reason in ('EARLY', 'FOREIGN_SENDER', 'REPEATED'));
-- A line that is not to be booked stays, with the reason.
alter table claims.parked_line add column discarded_at timestamptz;
alter table claims.parked_line add column discard_reason text not null default '';

-- The work list: newest first.
create index parked_line_open on claims.parked_line (facility, id) where discarded_at is null;

-- How often the post office was asked about the submission without an answer; each time it is asked later again.
alter table claims.claim add column asks integer not null default 0;

-- Claims of all facilities that the background worker is to file or to ask after, without those of the payers that are
-- being asked about as many claims as they may be.
create function claims.due_filings(at_most integer, busy_payers text[])
    returns table (facility text, id uuid, payer_id text)
    language sql stable security definer set search_path = pg_catalog
    as $$
        select c.facility, c.id, c.payer_id from claims.claim c
        where c.next_filing_at <= now() and (c.filing_until is null or c.filing_until < now())
            and c.payer_id <> all (busy_payers)
        order by c.next_filing_at
        limit at_most
    $$;

do $$
declare
    app text := chassis.app_role();
begin
    execute format('grant update on claims.parked_line to %I', app);
    revoke all on function claims.due_filings(integer, text[]) from public;
    execute format('grant execute on function claims.due_filings(integer, text[]) to %I', app);
end
$$;
