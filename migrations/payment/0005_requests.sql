-- What a request wanted of the processor carries the request's identity: it takes effect once, however late it is
-- repeated. The stored answers are forgotten; this is not.
alter table payment.operation
    -- `package.Service/Method`; empty for what follows by itself, and for what was wanted before this column was there.
    add column request_method text not null default '',
    -- SHA-256 of the request's canonical bytes.
    add column request_hash bytea,
    -- Of a refund that one charge is too small for: what the same request is still to give back of other charges.
    add column remaining bigint not null default 0;
