DROP TABLE log_cuts;
