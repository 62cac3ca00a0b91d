DROP TABLE backfill_refusals;
