DROP FUNCTION check_project_claim CASCADE;
DROP TABLE project_claim;
