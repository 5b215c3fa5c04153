-- A transaction may work for several facilities: `weft.facility` names them, with commas between. No facility's name has one.
-- One name means what it meant before, so that the version before goes on serving.

do $$
declare
    name text;
    of_them text := 'facility = any (string_to_array(current_setting(''weft.facility'', true), '',''))';
begin
    for name in
        select format('%I.%I', p.schemaname, p.tablename) from pg_policies p
        where p.schemaname = 'chassis' and p.policyname = 'facility'
    loop
        execute format('alter policy facility on %s using (%s) with check (%s)', name, of_them, of_them);
    end loop;
    -- Whoever appends a record that may be there already must be able to see it.
    execute format('alter policy facility_reads on chassis.audit using (%s)', of_them);
end
$$;
