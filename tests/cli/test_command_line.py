"""The command line: help with examples everywhere, mistakes answered in one sentence."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from extensions import addresses
from extensions.cli.app import app

PROGRAM = Path(sys.executable).parent / "skewless"
NOBODY_LISTENS = "postgresql://user:secret-word@127.0.0.1:1/features"


def leaves(group: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every command with the words that call it."""
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(leaves(typer.main.get_command(app)))


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SKEWLESS_")}
    return subprocess.run(
        [PROGRAM, *arguments],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_that_names_it(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    assert command.help  # type: ignore[attr-defined]
    assert f"`skewless {' '.join(words)}" in command.epilog  # type: ignore[attr-defined]


def test_the_commands_that_the_documentation_promises_are_there() -> None:
    promised = {
        "demo", "up", "down", "migrate", "doctor", "simulate", "import",
        "refresh", "backfill", "labels", "training-set", "serve", "rebuild-online", "ingest",
        "replay", "status", "dead-letters list", "dead-letters show", "dead-letters replay",
        "stream skip",
        "plan", "apply", "promote", "rollback", "versions", "diff", "retire", "sql", "init",
        "audit", "explain", "drift baseline", "drift check", "drift calibrate", "drift watch",
        "drift report", "lake cut", "lake export", "lake status",
    }  # fmt: skip
    assert promised == {" ".join(words) for words in COMMANDS}


def test_every_argument_and_option_is_described() -> None:
    silent = [
        f"{' '.join(words)}: {parameter.name}"
        for words, command in COMMANDS.items()
        for parameter in command.params  # type: ignore[attr-defined]
        if not parameter.help
    ]
    assert silent == []


def test_every_command_is_in_a_panel_of_its_task() -> None:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert command.rich_help_panel, name


def test_help_imports_nothing_that_takes_long() -> None:
    heavy = (
        "feast", "pandas", "numpy", "pyarrow", "psycopg", "sqlalchemy", "redis", "kafka",
        "great_expectations", "scipy", "rich.progress", "yaml",
    )  # fmt: skip
    script = f"""
import sys
from extensions.cli import main
sys.argv = ["skewless", "--help"]
try:
    main()
finally:
    print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"
    assert "training-set" in done.stdout


def test_the_version_is_said() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"skewless [\d.]+ \(Feast [\d.]+, Python [\d.]+\)", done.stdout.strip())


def test_completion_knows_the_commands() -> None:
    done = run(
        _SKEWLESS_COMPLETE="complete_bash", COMP_WORDS="skewless back", COMP_CWORD="1",
    )  # fmt: skip
    assert done.stdout.split() == ["backfill"]


@pytest.fixture(scope="module")
def without_feast(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which a command that imports Feast ends with a traceback.

    Feast takes seconds to import; what is wrong before it is needed is said before that.
    """
    folder = tmp_path_factory.mktemp("without_feast")
    (folder / "feast.py").write_text("raise RuntimeError('Feast was imported')\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.getenv("PYTHONPATH")])])}


BACKFILL = ["backfill", "all", "--from", "2026-01-01", "--to", "2026-01-02"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["migrate"], 1),
        (["simulate", "--events", "10"], 1),
        (BACKFILL, 1),
        (["refresh"], 1),
        (["status"], 1),
        (["training-set", "ranking", "labels.csv", "train.parquet"], 1),
        (["plan"], 1),
        (["audit"], 1),
        (["drift", "check"], 1),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_missing_server_is_one_sentence_without_the_password(
    arguments: list[str], code: int, without_feast: dict[str, str]
) -> None:
    result = run(
        *arguments,
        **without_feast,
        **{
            addresses.POSTGRES_VARIABLE: NOBODY_LISTENS,
            addresses.REDIS_VARIABLE: "redis://127.0.0.1:1/0",
            addresses.KAFKA_VARIABLE: "127.0.0.1:1",
        },
    )
    assert "Traceback" not in result.stderr
    assert result.returncode == code
    assert "127.0.0.1:1/features does not answer" in result.stderr
    assert "skewless up" in result.stderr
    assert "secret-word" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["migrate"], 1), (["ingest"], 1), (["drift", "check"], 1)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_no_address_at_all_says_where_to_put_one(
    arguments: list[str], code: int, tmp_path: Path, without_feast: dict[str, str]
) -> None:
    result = run(*arguments, **without_feast, **{addresses.HOME_VARIABLE: str(tmp_path)})
    assert "Traceback" not in result.stderr
    assert result.returncode == code
    assert addresses.POSTGRES_VARIABLE in result.stderr
    assert "feature_store.yaml" in result.stderr


@pytest.mark.parametrize("arguments", [BACKFILL, ["refresh"]], ids=lambda arguments: arguments[0])
def test_a_database_without_tables_says_to_migrate(
    arguments: list[str], postgres_server: str, without_feast: dict[str, str]
) -> None:
    result = run(*arguments, **without_feast, **{addresses.POSTGRES_VARIABLE: postgres_server})
    assert result.returncode == 1
    assert result.stderr.strip().endswith("run `skewless migrate` first.")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["backfill", "all", "--from", "yesterday", "--to", "2026-01-02"], "--from must be"),
        (["import", "events", "no-such-file.csv"], "no-such-file.csv"),
        (["import", "events", "x.csv", "--map", "watched_at"], "--map takes COLUMN=EXPRESSION"),
        (["simulate", "--users", "0"], "users"),
        (["training-set", "ranking"], "labels"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistyped_argument_is_one_sentence_and_exit_code_two(
    arguments: list[str], expected: str, database: str, without_feast: dict[str, str]
) -> None:
    result = run(
        *arguments,
        **without_feast,
        **{
            addresses.POSTGRES_VARIABLE: database,
            addresses.REDIS_VARIABLE: "redis://127.0.0.1:1/0",
        },
    )
    assert result.returncode == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


def test_simulate_backfill_and_refresh_report_json(database: str, redis_server: str) -> None:
    environment = {
        addresses.POSTGRES_VARIABLE: database,
        addresses.REDIS_VARIABLE: redis_server,
    }
    simulated = run(
        "simulate", "--users", "50", "--items", "20", "--days", "10", "--events", "2000",
        "--until", "2026-03-01T00:00:00Z", "--json", **environment,
    )  # fmt: skip
    [items, loaded] = json.loads(simulated.stdout)
    assert (items["source"], loaded["source"]) == ("items", "watch_events")
    assert loaded["read"] == loaded["inserted"] + loaded["duplicates"] == 2010
    assert loaded["inserted"] == 2000

    first = run(
        "backfill", "all", "--from", "2026-02-26", "--to", "2026-03-01", "--json", **environment
    )
    views = json.loads(first.stdout)
    assert {view["view"] for view in views} >= {"user_watch_stats", "item_stats"}
    assert all(view["rows"] > 0 for view in views)
    # The same command again finds nothing left to do.
    again = run(
        "backfill", "all", "--from", "2026-02-26", "--to", "2026-03-01", "--json", **environment
    )
    assert [view["rows"] for view in json.loads(again.stdout)] == [0] * len(views)

    refreshed = run("refresh", "--no-online", "--json", **environment)
    assert {view["view"] for view in json.loads(refreshed.stdout)} == {v["view"] for v in views}
