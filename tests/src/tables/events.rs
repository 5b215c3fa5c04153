//! Tables of the crate `events` in the database of a service.

/// Two thirds of the dead letters are open, most of them of one consumer; half are of one kind. One run replays a
/// tenth of them; a twentieth of the rows waits behind one dead letter.
///
/// In the outbox up to 200,000 events wait behind one that the broker refuses, and up to 20,000 others behind
/// those. Two thirds of the operators' actions of three years ago, the oldest ones, are about open dead letters.
pub(super) const EVENTS: [&str; 12] = [
    "do $$ begin
        for day in 1 .. 13 loop
            execute format('create table if not exists events.%I partition of events.event_log_published
                            for values from (%L) to (%L)',
                'event_log_' || to_char((now() at time zone 'utc')::date - day, 'YYYYMMDD'),
                ((now() at time zone 'utc')::date - day)::text || ' 00:00:00+00',
                ((now() at time zone 'utc')::date - day + 1)::text || ' 00:00:00+00');
        end loop;
     end $$",
    "insert into events.event_log_published (pending, position, lane, occurred_at, id, type, subject, facility, aggregate,
         aggregate_id, version, causation_id, traceparent, body)
     select false, nextval('events.position'), n % 16, now() - interval '12 days' + n * interval '11 days' / ROWS,
         pg_temp.uid(30, n), 't', 'evt.payment.t', pg_temp.place(n), 'a', pg_temp.uid(3, n), 1, pg_temp.uid(30, n - 1), '', ''
     from generate_series(1, ROWS) n",
    "insert into events.inbox (consumer, event_id, received_at)
     select 'c-common', pg_temp.uid(31, n), now() - case when n % 100 = 1 then interval '300 days' else interval '1 day' end
     from generate_series(1, ROWS) n",
    "insert into events.consumer (name) values ('c-common'), ('c-rare')",
    "insert into events.dead_letter (id, facility, state, consumer, event_id, message_id, type, subject, stream,
         stream_sequence, aggregate, aggregate_id, version, causation_id, headers, body, error_class, error_code,
         error_message, fingerprint, attempts, first_failure_at, last_failure_at, handler_version, created_at, resolved_at)
     select pg_temp.uid(32, n), case when n % 97 = 5 then '' else pg_temp.place(n) end, state,
         case when n % 1009 = 1 then 'c-rare' else 'c-common' end, pg_temp.uid(33, n), 'm', 't', 'evt.order.t', 'EVENTS', n,
         'a', pg_temp.uid(34, n), 1, pg_temp.uid(30, n), '{}', '', 'permanent', 'CODE', repeat('x', 500),
         case when n % 1009 = 1 then 'rare' when n % 2 = 0 then 'common' else 'f-' || n % 5000 end, 1, now(), now(), 'v',
         pg_temp.at(n, ROWS), case when state in ('resolved', 'discarded')
             then now() - case when n % 99 = 0 then interval '300 days' else interval '10 days' end end
     from generate_series(1, ROWS) n cross join lateral (
         select case when n % 3 = 0 then 'resolved' when n % 1001 = 1 then 'discarded' when n % 1003 = 2 then 'replaying'
                else 'open' end) s (state)",
    "insert into events.parked_key (consumer, aggregate_id, facility, dead_letter_id)
     select 'c-common', pg_temp.uid(34, n), 'al-noor', pg_temp.uid(32, n) from generate_series(2, ROWS / 10) n",
    "insert into events.parked (consumer, aggregate_id, facility, event_id, message_id, subject, stream, stream_sequence,
         headers, body)
     select 'c-common', pg_temp.uid(34, case when n % 2 = 0 then 77 else n end), 'al-noor', pg_temp.uid(35, n), 'm', 'evt.order.t', 'EVENTS', n, '{}', ''
     from generate_series(1, ROWS / 10) n",
    "insert into events.replay_run (id, facility, fingerprint, mode, rate, state, actor, total, sent_to)
     select pg_temp.uid(36, n), 'al-noor', '', 'straight', 1, case when n = 1 then 'running' else 'finished' end, 'o',
         case when n = 1 then ROWS / 10 else 0 end, case when n = 1 then 1000 else 0 end
     from generate_series(1, ROWS / 100) n",
    "insert into events.replay_item (run_id, dead_letter_id, facility, position, sent_at)
     select pg_temp.uid(36, case when n <= ROWS / 10 then 1 else 2 + n % 400 end), pg_temp.uid(32, n), 'al-noor', n,
         case when n <= 1000 then now() end
     from generate_series(1, ROWS / 5) n",
    "insert into events.outbox (lane, occurred_at, id, type, subject, facility, aggregate, aggregate_id, version, traceparent,
         body)
     select case when n <= 0 then 7 else n % 16 end, now(), pg_temp.uid(38, n + 200000), 't', 'evt.payment.t', 'al-noor', 'a',
         pg_temp.uid(37, case when n <= 0 then 7 else 256 + n end), n + 200001, '', ''
     from generate_series(-least(ROWS, 200000), least(ROWS / 5, 20000)) n",
    "insert into events.held (position, kind, facility, aggregate_id, message_id, type, subject, size, code, reason, next_at)
     select position, 'event', facility, aggregate_id, id::text, type, subject, 1, 'REFUSED', 'r', now() + interval '1 day'
     from events.outbox order by position limit 1",
    "insert into events.operator_action (facility, action, request_id, request_hash, answer, actor, dead_letter_id, created_at)
     select 'al-noor', 'a', pg_temp.uid(39, n), '', '', 'o', case when n < ROWS / 3 then pg_temp.uid(32, 3 * n + 1) end,
         now() - interval '3 years' + n * interval '1 second'
     from generate_series(1, ROWS / 2) n",
];

/// The tables that are large after that.
pub(super) const LARGE: [&str; 8] = [
    "event_log",
    "outbox",
    "operator_action",
    "inbox",
    "dead_letter",
    "parked",
    "replay_item",
    "replay_run",
];
