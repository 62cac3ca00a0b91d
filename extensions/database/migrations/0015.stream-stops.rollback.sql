DROP TABLE stream_stops;
