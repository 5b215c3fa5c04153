-- The version of the order by whose event its patient was last asked for the balance. An event that is caught up on late changes
-- nothing that a later one has said.
alter table payment.payment add column asked_version bigint not null default 0;
