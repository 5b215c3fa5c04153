-- A request's row grows by its answer, some eight times. With room in its page that writes no index entry, also when the rows
-- of a whole page are answered by one statement.
alter table chassis.idempotency set (fillfactor = 20);
