"""PostgreSQL's types as Arrow's: what a batch of a history table holds."""

import pyarrow as pa

from extensions.errors import InputError
from extensions.history.row_refusals import NUMBER
from extensions.sources import Column, HistoryTable
from extensions.sources.ingest import arrow_of

INTEGER_LIMITS = {
    "smallint": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
}
FLOATS = ("real", "double precision")
TIMES = ("timestamp with time zone", "timestamp without time zone", "date")
TEXTS = ("text", "character varying", "character", '"char"', "name", "citext")


def schema_of(table: HistoryTable, names: list[str]) -> pa.Schema:
    """The Arrow schema of some columns of a table."""
    return pa.schema([(name, arrow_of(table.by_name[name])) for name in names])


def canonical(batch: pa.RecordBatch, table: HistoryTable) -> pa.RecordBatch:
    """The batch in the table's types, with a column of arrivals (null where it has none).

    Raises:
        InputError: a column is not the table's, or its values are not of its type.
    """
    writable = {column.name for column in table.written}
    arrays, names = [], []
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        if name == NUMBER:
            arrays.append(values)
        elif name not in writable:
            raise InputError(
                f"{table.table} has no column {name} that could be written: it has "
                f"{', '.join(sorted(writable))}."
            )
        else:
            arrays.append(_cast(values, table.by_name[name], table))
        names.append(name)
    if table.has_arrival and table.arrival not in names:
        names.append(table.arrival)
        arrays.append(pa.nulls(batch.num_rows, arrow_of(table.by_name[table.arrival])))
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _cast(values: pa.Array, column: Column, table: HistoryTable) -> pa.Array:
    wanted = arrow_of(column)
    if values.type == wanted:
        return values
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        return values.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"The column {column.name} of {table.table} is {column.pg_type}; {values.type} cannot "
            f"be stored in it ({str(error).splitlines()[0][:120]})."
        ) from error
