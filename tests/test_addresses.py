"""Where the servers are: feature_store.yaml before the environment before the running stack."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from extensions import addresses
from extensions.errors import SkewlessError


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for variable in (*addresses.VARIABLES.values(), addresses.HOME_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(addresses, "REPO_ROOT", tmp_path)
    (tmp_path / "feature_store.yaml").write_text("project: x\noffline_store:\n  type: ours\n")
    return tmp_path


def test_without_any_address_the_sentence_names_all_three_ways(repository: Path) -> None:
    with pytest.raises(SkewlessError) as error:
        addresses.postgres_url()
    for way in ("make up", addresses.POSTGRES_VARIABLE, "feature_store.yaml"):
        assert way in str(error.value)


def test_the_file_wins_over_the_environment_and_that_over_the_stack(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / ".skewless").mkdir()
    stack = {"pid": os.getpid(), "postgres": "postgresql://stack/x", "redis": "redis://stack/0"}
    (repository / ".skewless" / "stack.json").write_text(json.dumps(stack))
    assert addresses.postgres_url() == "postgresql://stack/x"
    assert addresses.set_elsewhere("postgres") is None

    monkeypatch.setenv(addresses.POSTGRES_VARIABLE, "postgresql://environment/x")
    assert addresses.postgres_url() == "postgresql://environment/x"

    (repository / "feature_store.yaml").write_text(
        "offline_store: {host: written, port: 5433, database: f, user: u, password: 'p@ss'}\n"
        "online_store: {connection_string: 'cache:6380,db=2,password=secret,ssl=true'}\n"
    )
    assert addresses.postgres_url() == "postgresql://u:p%40ss@written:5433/f"
    assert addresses.redis_url() == "rediss://:secret@cache:6380/2"
    again = addresses.connection_string_of(addresses.redis_url())
    assert addresses.redis_url_of(again) == addresses.redis_url()

    url = "rediss://:secret@cache:6380/2?ssl_ca_certs=/etc/ca.pem"
    assert addresses.connection_string_of(url).split(",")[-1] == "ssl_ca_certs=/etc/ca.pem"
    assert addresses.redis_url_of(addresses.connection_string_of(url)) == url.replace(
        "/etc/ca.pem", "%2Fetc%2Fca.pem"
    )


def test_a_stack_that_has_died_is_no_address(repository: Path) -> None:
    (repository / ".skewless").mkdir()
    (repository / ".skewless" / "stack.json").write_text(
        json.dumps({"pid": 2**22 + 1, "postgres": "postgresql://gone/x"})
    )
    with pytest.raises(SkewlessError):
        addresses.postgres_url()
