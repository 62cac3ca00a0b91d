"""Each role's commands import with what its lock installs, and with nothing else.

A lock that lacks a package is noticed here, not by whoever starts the role: every module that the
role's commands reach, also from within a function, is imported in a process of its own in which
the packages outside of the lock cannot be imported.
"""

import ast
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from extensions.cli import OURS, main
from tests.conftest import REPO_ROOT

COMMANDS = {
    "serving": ("extensions.cli.commands.serving",),
    "streaming": (
        "extensions.cli.commands.streaming",
        "extensions.cli.commands.refresh_and_backfill",
    ),
    "monitoring": ("extensions.cli.commands.monitoring",),
}
# What an extra brings: where it is not installed, a sentence says so (tests/lake/test_settings.py).
OPTIONAL = {"pyiceberg"}
IMPORT = """
import importlib, json, sys

blocked, names = (set(names) for names in json.loads(sys.stdin.read()))

class OutsideOfTheLock:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is not in the lock", name=name)

sys.meta_path.insert(0, OutsideOfTheLock())
for name in ["extensions.cli", *sorted(names)]:
    importlib.import_module(name)
"""


def locked(lock: str) -> set[str]:
    """The names in a lock, as package indexes spell them."""
    text = (REPO_ROOT / "locks" / f"{lock}.txt").read_text()
    return {_spelled(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}


def outside(lock: str) -> set[str]:
    """The importable names of this environment that the lock's packages do not bring."""
    names = locked(lock) | {"skewless"}
    return {
        module
        for module, packages in importlib.metadata.packages_distributions().items()
        if not any(_spelled(package) in names for package in packages)
    }


def reached(roots: tuple[str, ...]) -> set[str]:
    """All that the modules of ours import, our own and others', wherever in a file it stands."""
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in seen or name.partition(".")[0] in OPTIONAL:
            continue
        seen.add(name)
        if name.partition(".")[0] in OURS and (spec := importlib.util.find_spec(name)):
            waiting += imports_of(Path(str(spec.origin)))
    return seen


def imports_of(path: Path) -> Iterator[str]:
    for node in _at_run_time(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name.partition(".")[0] in OURS and _is_module(name):
                    yield name


def _at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """A tree's nodes, but for what is there for the type checker."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from _at_run_time(node)


def _is_module(name: str) -> bool:
    path = REPO_ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or path.is_dir()


def _spelled(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def start(roots: tuple[str, ...], blocked: set[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", IMPORT],
        input=json.dumps([sorted(blocked), sorted(reached(roots))]),
        cwd=REPO_ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.parametrize("role", COMMANDS)
def test_a_role_imports_with_its_lock_alone(role: str) -> None:
    result = start(COMMANDS[role], outside(role))
    assert result.returncode == 0, result.stderr


def test_what_a_lock_lacks_is_noticed() -> None:
    result = start(COMMANDS["streaming"], outside("serving"))
    assert result.returncode != 0
    assert "is not in the lock" in result.stderr


@pytest.mark.parametrize("role", COMMANDS)
def test_a_role_gets_what_production_gets_but_for_what_is_left_out(role: str) -> None:
    """The same versions and hashes, so that what was tested together is installed together."""
    production = (REPO_ROOT / "locks" / "production.txt").read_text()
    for entry in re.split(r"\n(?=\S)", (REPO_ROOT / "locks" / f"{role}.txt").read_text().strip()):
        assert entry in production
    left_out = (REPO_ROOT / "locks" / f"{role}.excludes.txt").read_text().splitlines()
    names = {_spelled(line) for line in left_out if line and not line.startswith("#")}
    assert names <= locked("production")
    assert not names & locked(role)


def test_a_server_carries_neither_the_drift_suite_nor_spark() -> None:
    assert not locked("serving") & {"great-expectations", "scipy", "pyspark"}
    assert "great-expectations" not in locked("streaming")


def test_a_command_of_another_role_names_the_package_that_it_lacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> None:
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy.stats")

    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    assert "needs the package scipy" in capsys.readouterr().err


def test_a_module_of_ours_that_is_missing_is_a_mistake() -> None:
    def command() -> None:
        raise ModuleNotFoundError("No module named 'extensions.x'", name="extensions.x")

    with pytest.raises(ModuleNotFoundError):
        main(command)
