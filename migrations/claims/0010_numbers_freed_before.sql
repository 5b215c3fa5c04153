-- Claims that had freed their numbers before there was a column for it.
update claims.claim set freed = id
where state = 'WITHDRAWN' and submitted_at is null and filing_epoch = 0 and freed <> id;
