DROP TABLE refused_entities;
