DROP TABLE late_appends;
DROP TABLE materializations;
