"""What the table of genres refuses, so that no weighted mean of embeddings can fail."""

import math

import psycopg
import pytest

from extensions.database import connect

FINE = [0.25] * 32


@pytest.mark.parametrize("place", [math.nan, math.inf, -math.inf, 2.0**-140, 1e30, None], ids=str)
def test_a_place_that_float32_could_not_average_is_refused(
    fresh_database: str, place: float | None
) -> None:
    with connect(fresh_database) as conn, pytest.raises(psycopg.errors.CheckViolation):
        conn.execute("INSERT INTO genres VALUES ('drama', %s)", [[*FINE[1:], place]])


@pytest.mark.parametrize("length", [0, 31, 33])
def test_an_embedding_of_another_length_is_refused(fresh_database: str, length: int) -> None:
    with connect(fresh_database) as conn, pytest.raises(psycopg.errors.CheckViolation):
        conn.execute("INSERT INTO genres VALUES ('drama', %s::real[])", [[0.5] * length])


def test_zeros_and_ordinary_places_are_accepted(fresh_database: str) -> None:
    with connect(fresh_database) as conn:
        conn.execute("INSERT INTO genres VALUES ('drama', %s), ('none', %s)", [FINE, [0.0] * 32])
