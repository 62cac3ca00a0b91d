"""A process whose user id has no name, as in a container."""

import pwd

import psycopg
import pytest

from extensions.account_name import account_name
from extensions.database import migrate
from tests.databases import create


def test_an_account_without_a_name_migrates(
    postgres_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert account_name() == "unknown"
    url = create(postgres_server, "nameless")
    assert migrate(url)
    with psycopg.connect(url) as conn:
        assert conn.execute("SELECT DISTINCT username FROM _yoyo_log").fetchall() == [("unknown",)]
    monkeypatch.setenv("LOGNAME", "operator")
    assert account_name() == "operator"
