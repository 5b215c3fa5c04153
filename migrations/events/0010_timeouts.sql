-- How often an event ran into the database's limit of time while others took effect.

set local lock_timeout = '10s';

alter table events.failure add column timeouts integer not null default 0;
