DROP TABLE reference_columns;
DROP TABLE stream_stops;
