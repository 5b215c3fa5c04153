-- A claim that was withdrawn and never handed to the post office frees its number: the same claim may come again, with
-- another order.
alter table claims.claim drop constraint claim_number_once;

create unique index claim_number_once on claims.claim (facility, provider_id, claim_id)
    where not (state = 'WITHDRAWN' and submitted_at is null and filing_epoch = 0);

-- Reading by number finds those, too.
create index claim_by_number on claims.claim (facility, provider_id, claim_id, id);
