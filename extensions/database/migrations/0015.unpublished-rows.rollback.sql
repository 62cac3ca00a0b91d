DROP TABLE unpublished_rows;
