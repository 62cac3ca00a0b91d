"""The one boundary around code of the feature repository: computations' SQL and transforms.

What fails in it is a `DefinitionError` that names the view, its file and the code's own error. A
server's outage and a failure of ours pass as they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from extensions.errors import DefinitionError, SkewlessError
from extensions.failure_classification import first_line, of_a_server, outage
from extensions.version_names import sql_file, version_name

# SQLSTATE classes of what a query itself does wrong: cardinality, data, and names or syntax.
_FAULTS_OF_A_QUERY = ("21", "22", "42")
# A table that is not there may be one of ours: `skewless migrate` makes it.
_UNDEFINED_TABLE = "42P01"


@contextmanager
def user_sql(view: str, version: int) -> Iterator[None]:
    """Around a statement that has a computation's SQL in it.

    Raises:
        DefinitionError: the SQL cannot be run, or failed on its data.
    """
    try:
        yield
    except Exception as error:
        state = getattr(error, "sqlstate", None) or ""
        if not state.startswith(_FAULTS_OF_A_QUERY) or state == _UNDEFINED_TABLE:
            raise
        reason = first_line(error).removeprefix("INVALID_ARGUMENT: ")
        raise DefinitionError(
            f"The SQL of {version_name(view, version)}: {reason.rstrip('.')}.",
            file=sql_file(view, version),
        ) from error


@contextmanager
def user_transform(name: str) -> Iterator[None]:
    """Around a call of a transform's function.

    Raises:
        DefinitionError: it raised.
    """
    try:
        yield
    except SkewlessError:
        raise
    except Exception as error:
        if of_a_server(error) or outage(error):
            raise
        raise DefinitionError(
            f"The transform {name} raised {type(error).__name__}: {first_line(error)}."
        ) from error
