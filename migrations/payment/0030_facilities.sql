-- A transaction may work for several facilities: `weft.facility` names them, with commas between. No facility's name has one.
-- One name means what it meant before, so that the version before goes on serving.

do $$
declare
    policy record;
    of_them text := 'facility = any (string_to_array(current_setting(''weft.facility'', true), '',''))';
begin
    for policy in
        select format('%I.%I', p.schemaname, p.tablename) as on_table, p.cmd from pg_policies p
        where p.schemaname = 'payment' and p.policyname = 'facility'
    loop
        execute format('alter policy facility on %s using (%s)', policy.on_table, of_them);
        if policy.cmd <> 'SELECT' then
            execute format('alter policy facility on %s with check (%s)', policy.on_table, of_them);
        end if;
    end loop;
end
$$;
