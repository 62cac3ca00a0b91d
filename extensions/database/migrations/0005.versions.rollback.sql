DROP TABLE promotions;
DROP TABLE view_versions;
DROP FUNCTION refuse_change;
DROP FUNCTION refuse_redefinition;
