DROP TABLE online_epochs;
