-- A withdrawn claim that was never handed in frees its number. The index of numbers left such claims out by a condition on
-- their state and lease, so that every lease and every outcome of any claim wrote all indexes anew. They are told apart by a
-- column of their own instead, which changes at that moment alone, and which the database sets by itself, whichever version
-- of the service withdraws the claim.

set local lock_timeout = '10s';

-- The claim's own identifier once its number is free; the same for all others.
alter table claims.claim add column freed uuid not null default '00000000-0000-0000-0000-000000000000';

-- Claims that come together are leased together: each finds room on its own page, and writes no index entry then. Pages are
-- filled to a half by new claims, and end up smaller than full ones whose claims all move.
alter table claims.claim set (fillfactor = 50);

create function claims.free_number() returns trigger
    language plpgsql
    as $$ begin new.freed := new.id; return new; end $$;

create trigger claim_frees_its_number
    before update of state on claims.claim
    for each row when (new.state = 'WITHDRAWN' and new.submitted_at is null and new.filing_epoch = 0)
    execute function claims.free_number();
