"""README's quick start, run as it is written: from a copy of the repository, in its order.

Blocks of ```console hold commands (``$ …``) and lines that they print. A printed line of README is
found in the output, in order, where its words stand; a number there stands for any number, but
zero only for zero. Blocks with a file's name after the language (```sql path) are that file.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from extensions.local.ports import free_port
from extensions.serving.settings import DEFAULT_PORT

REPO = Path(__file__).resolve().parent.parent
NUMBER = re.compile(r"\d+(?:[,.]\d+)*")
# Hexadecimal hashes and times are other ones each time.
VARIABLE = re.compile(r"\b(?=\w*\d)[0-9a-f]{32,}\b|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ?")


@dataclass(frozen=True)
class Step:
    """A command and what README says that it prints, or a file and its text."""

    command: str = ""
    printed: tuple[str, ...] = ()
    path: str = ""
    text: str = ""


def steps(section: str) -> Iterator[Step]:
    """The blocks of a page in order.

    A command goes on over lines that end with a backslash, and over those that begin with ``> ``,
    as a shell's second prompt does.
    """
    for info, body in re.findall(r"^```(.*?)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
        language, _, path = info.partition(" ")
        if language != "console":
            assert path, f"a block of {language!r} in the quick start names no file"
            yield Step(path=path, text=body)
            continue
        for command, printed in re.findall(
            r"^\$ ((?:.*\\\n)*.*(?:\n> .*)*)\n((?:(?!\$ ).*\n)*)", body, re.MULTILINE
        ):
            typed = command.replace("\n> ", "\n")
            yield Step(typed, tuple(line for line in printed.splitlines() if line.strip()))


def pattern(line: str) -> str:
    """A regular expression for a line of README."""

    def words(text: str) -> str:
        found, end = [], 0
        for number in NUMBER.finditer(text):
            found.append(re.escape(text[end : number.start()]))
            zero = not number.group().strip("0,.")
            found.append(r"(?<![\d,.])0(?![\d,])" if zero else r"(?!0(?![\d.,]))\d+(?:[,.]\d+)*")
            end = number.end()
        return "".join([*found, re.escape(text[end:])])

    found, end = [], 0
    for variable in VARIABLE.finditer(line):
        found += [words(line[end : variable.start()]), r"[\w:.+-]+"]
        end = variable.end()
    return re.sub(r"(?:\\ )+", r"\\s+", "".join([*found, words(line[end:])]))


def missing(printed: tuple[str, ...], output: str) -> str | None:
    """README's first line that the output has not, after those before it."""
    at = 0
    for line in printed:
        found = re.compile(pattern(line.strip())).search(output, at)
        if found is None:
            return line
        at = found.end()
    return None


@pytest.mark.parametrize(
    ("line", "output", "agrees"),
    [
        ("5,000 labels", "labels.csv: 812 labels for", True),
        ("5,000 labels", "labels.csv: 0 labels for", False),
        ("0 differences (12 values)", "0 differences (7 values)", True),
        ("0 differences", "3 differences", False),
        ("0 differences", "10 differences", False),
        ("at 2026-01-01T00:00:00Z.", "at 2031-12-30T11:22:33Z.", True),
        ("rows      5,000", "rows 17", True),
        ("new view", "refused", False),
    ],
)
def test_a_line_of_the_readme_stands_for_its_words(line: str, output: str, agrees: bool) -> None:
    assert (missing((line,), output) is None) is agrees


def clone(folder: Path) -> None:
    """The repository's files as git knows them, with the environment that runs this test."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (REPO / name).is_file() and not name.startswith(("tests/", "benchmarks/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO / name, folder / name)
    environment = Path(sys.executable).parent.parent
    (folder / ".venv").symlink_to(environment)
    if (REPO / ".uv").exists():
        (folder / ".uv").symlink_to(REPO / ".uv")
    # `make` installs where the lock is newer than the environment. That one is used here as it is.
    for name in ("pyproject.toml", "locks/development.txt"):
        os.utime(folder / name, (0, 0))
    assert (environment / ".installed").exists(), "run `make install` first"


@dataclass
class Terminal:
    """A shell's commands; each begins in the folder and environment of the one before."""

    folder: Path
    environment: dict[str, str]

    def __post_init__(self) -> None:
        self.where = self.folder

    def run(self, command: str) -> str:
        """What the command prints; it must succeed."""
        state = self.folder / ".environment"
        script = f"set -e\n{command}\nenv -0 > {state}\n"
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.where, env=self.environment, timeout=600,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        pairs = (pair.partition("=") for pair in state.read_text().split("\0") if pair)
        self.environment = {name: value for name, _, value in pairs}
        self.where = Path(self.environment["PWD"])
        return done.stdout


@pytest.mark.timeout(1_800)
def test_the_quick_start_works_as_it_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "skewless"
    clone(folder)
    port = free_port()
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("SKEWLESS_", "PYTEST_"))}
    # The copy's packages come before those that the environment was installed for.
    first = outside | {"PYTHONPATH": str(folder), "SKEWLESS_PORT": str(port)}
    second = Terminal(folder, first)
    log = (tmp_path / "up.log").open("w+")
    up: subprocess.Popen[str] | None = None
    ran = []
    try:
        section = (REPO / "README.md").read_text().split("\n## Quick start\n")[1]
        for step in steps(section.split("\n## ", maxsplit=1)[0]):
            printed = tuple(line.replace(str(DEFAULT_PORT), str(port)) for line in step.printed)
            if step.path:
                (folder / step.path).write_text(step.text)
            elif step.command == "make up":
                up = subprocess.Popen(
                    ["make", "up"], cwd=folder, env=first, stdout=log, stderr=subprocess.STDOUT,
                    text=True, start_new_session=True,
                )  # fmt: skip
                wait_for(up, tmp_path / "up.log", printed)
            else:
                output = second.run(step.command.replace(str(DEFAULT_PORT), str(port)))
                line = missing(printed, output)
                assert line is None, f"$ {step.command}\nprints no {line!r}, but\n{output}"
            ran.append(step.command)
    finally:
        if up is not None:
            # As Ctrl-C in a terminal does: to `make` and to what it runs.
            os.killpg(up.pid, signal.SIGINT)
            up.wait(60)
        log.close()
    assert any(command.startswith("skewless audit") for command in ran)
    assert not (folder / ".skewless" / "stack.json").exists()


def wait_for(process: subprocess.Popen[str], log: Path, printed: tuple[str, ...]) -> None:
    """Until the program has printed these lines."""
    while (line := missing(printed, log.read_text())) is not None:
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the stack ended without {line!r}:\n{log.read_text()}")
