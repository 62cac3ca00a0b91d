DROP FUNCTION check_project_claim CASCADE;
DROP FUNCTION claimed_project;
DROP TABLE project_claim;
