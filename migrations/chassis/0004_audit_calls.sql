-- One row for every audited call, whatever is killed in between. A call that has effects writes its row, as STARTED, in the
-- transaction of its first effect; when it ends, the writer of the process puts its status there. A call without a row
-- gets one at its end. A row that stays STARTED belongs to a call whose process died before it was answered.
alter table chassis.audit add column call_id uuid;

comment on column chassis.audit.status is
    'The name of the gRPC status code; STARTED until the call has ended, and for good when its process died before.';
comment on column chassis.audit.call_id is 'Made for the call when it came in; null in rows of before this column.';
