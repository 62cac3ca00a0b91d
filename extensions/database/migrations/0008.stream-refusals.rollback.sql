DROP TABLE stream_refusals;
