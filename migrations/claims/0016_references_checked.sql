-- Reads both tables, and blocks nothing.
alter table claims.resubmission validate constraint resubmission_of_claim;
alter table claims.remittance_line validate constraint remittance_line_of_claim;
