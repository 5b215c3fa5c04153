-- Runs as the owner: the service may append rows and change none. What this changes is a status that is still open.
create function chassis.conclude_audit(
    ats timestamptz[], facilities text[], subjects text[], services text[], methods text[], request_ids text[],
    statuses text[], call_ids uuid[]
) returns void
    language sql security definer set search_path = pg_catalog
    as $$
        insert into chassis.audit (at, facility, subject, service, method, request_id, status, call_id)
        select ended.at, ended.facility, ended.subject, ended.service, ended.method, ended.request_id, ended.status,
               ended.call_id
        from unnest(ats, facilities, subjects, services, methods, request_ids, statuses, call_ids)
            as ended (at, facility, subject, service, method, request_id, status, call_id)
        on conflict (at, call_id) do update set status = excluded.status where audit.status = 'STARTED'
    $$;

revoke all on function chassis.conclude_audit(
    timestamptz[], text[], text[], text[], text[], text[], text[], uuid[]) from public;

do $$
begin
    execute format('grant execute on function chassis.conclude_audit('
        'timestamptz[], text[], text[], text[], text[], text[], text[], uuid[]) to %I', chassis.app_role());
end
$$;
