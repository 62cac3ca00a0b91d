DROP TABLE engine_verdicts;
