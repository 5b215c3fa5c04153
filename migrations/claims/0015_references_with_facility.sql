-- References name the facility, too; what is there is checked by the next migration.

set local lock_timeout = '10s';

alter table claims.resubmission add constraint resubmission_of_claim
    foreign key (facility, claim) references claims.claim (facility, id) not valid;
alter table claims.remittance_line add constraint remittance_line_of_claim
    foreign key (facility, claim) references claims.claim (facility, id) not valid;
