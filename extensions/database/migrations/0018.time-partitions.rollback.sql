DROP FUNCTION ensure_time_partitions;
DROP FUNCTION written_columns;
