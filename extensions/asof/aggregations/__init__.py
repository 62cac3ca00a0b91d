"""Declared aggregations: a view's Feast `Aggregation`s and tags, compiled to its one SQL text.

`declaration` reads what a view says, `declaration_check` says what is wrong with it, `compiler`
makes the SQL, `completion` gives the view what follows from it (log, horizon, sources), and
`catalogue_check` compares it with the tables' columns.
"""
