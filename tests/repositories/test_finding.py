"""Which repository a command works for: named, or the nearest one upwards; else one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from extensions import addresses
from extensions.errors import ConfigurationError
from extensions.exit_codes import FAILED
from extensions.repository import REPO_VARIABLE, find_repository, repo_root, working_for
from tests.conftest import REPO_ROOT
from tests.repositories.places import ODD, done, new_repository, plain_environment, run


@pytest.fixture
def nested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An outer repository with an inner one, and a folder in that."""
    monkeypatch.delenv(REPO_VARIABLE, raising=False)
    inner = tmp_path / ODD / "inner"
    (inner / "notebooks" / "old").mkdir(parents=True)
    for folder in (tmp_path / ODD, inner):
        (folder / "feature_store.yaml").write_text(f"project: {folder.name[:5].strip()}\n")
    return inner


def test_the_nearest_folder_upwards_is_the_repository(
    nested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nested / "notebooks" / "old")
    assert repo_root() == nested
    assert addresses.project_name() == "inner"
    assert addresses.home() == nested / ".skewless"
    monkeypatch.chdir(nested.parent)
    assert repo_root() == nested.parent


def test_a_named_repository_wins_over_where_one_is(
    nested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nested)
    monkeypatch.setenv(REPO_VARIABLE, "..")
    assert repo_root() == nested.parent
    with working_for(nested):
        assert repo_root() == nested
    with working_for(nested / "notebooks"):  # no repository: changes nothing
        assert repo_root() == nested.parent
    monkeypatch.setenv(REPO_VARIABLE, str(nested / "notebooks"))
    with pytest.raises(ConfigurationError, match=r"notebooks, which has no feature_store\.yaml"):
        repo_root()


def test_nothing_is_found_beside_the_engines_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(REPO_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert find_repository() is None
    assert addresses.project_name() is None
    with pytest.raises(ConfigurationError, match="skewless init DIR"):
        repo_root()


@pytest.mark.parametrize(
    "arguments",
    [
        *(["up"], ["down"], ["demo"], ["migrate"], ["doctor"], ["plan"], ["refresh"], ["status"]),
        *(["ingest"], ["serve"], ["simulate"], ["versions"], ["drift", "check"], ["audit"]),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("addressed", [False, True])
def test_without_a_repository_a_command_is_one_sentence(
    tmp_path: Path, arguments: list[str], *, addressed: bool
) -> None:
    """Also where the environment names servers: whose they are is not known."""
    named = {addresses.POSTGRES_VARIABLE: "postgresql://u:p@127.0.0.1:1/d"} if addressed else {}
    result = run("skewless", *arguments, cwd=tmp_path, **named)
    assert result.returncode == FAILED
    [sentence] = result.stderr.strip().splitlines()
    assert sentence.startswith(f"skewless: There is no feature_store.yaml in {tmp_path} or a ")
    assert "--repo" in sentence
    assert not list(tmp_path.iterdir())


def test_help_and_version_need_no_repository(tmp_path: Path) -> None:
    assert "--repo" in done(run("skewless", "--help", cwd=tmp_path))
    assert "skewless" in done(run("skewless", "--version", cwd=tmp_path))
    assert "Usage" in done(run("skewless", "drift", "check", "--help", cwd=tmp_path))


def test_a_wrong_repo_is_one_sentence_that_names_it(tmp_path: Path) -> None:
    for result in (
        run("skewless", "--repo", "nowhere", "doctor", cwd=tmp_path),
        run("skewless", "doctor", cwd=tmp_path, **{REPO_VARIABLE: str(tmp_path / "nowhere")}),
    ):
        assert result.returncode == FAILED
        [sentence] = result.stderr.strip().splitlines()
        assert str(tmp_path / "nowhere") in sentence
        assert "no feature_store.yaml" in sentence


def test_a_stack_is_found_from_a_subfolder_and_from_elsewhere(tmp_path: Path) -> None:
    """`down` of a stack that a file alone pretends: it is gone after it, in that folder only."""
    ours, other = (new_repository(tmp_path / ODD / name) for name in ("ours", "other"))
    for folder in (ours, other):
        (folder / ".skewless").mkdir()
    state = {"pid": os.getpid(), "postgres": "postgresql://u:p@127.0.0.1:1/d"}
    for cwd, options in ((ours / "feature_repo" / "history", []), (tmp_path, ["--repo", ours])):
        for folder in (ours, other):
            (folder / ".skewless" / "stack.json").write_text(json.dumps(state))
        result = run("skewless", *options, "down", "--json", cwd=cwd)
        assert json.loads(done(result)) == {"stopped": None}
        assert not (ours / ".skewless" / "stack.json").exists()
        assert (other / ".skewless" / "stack.json").exists()


READ = """
import sys
from pathlib import Path
from extensions.asof import load_computations
print(*load_computations(Path(sys.argv[1])))
import feature_repo.sources
print(feature_repo.sources.__file__)
"""


def read(repository: Path, code: str = READ, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, repository], cwd=REPO_ROOT, capture_output=True, text=True,
        env=plain_environment(**environment), timeout=120, check=False,
    )  # fmt: skip


def test_the_engines_own_checkout_does_not_hide_the_users_definitions(tmp_path: Path) -> None:
    """The checkout, which has a feature_repo of its own, comes first on the path of modules."""
    repository = new_repository(tmp_path / ODD)
    result = read(repository, PYTHONPATH=str(REPO_ROOT))
    assert done(result).split("\n")[:2] == [
        "visitor_activity.v1", str(repository / "feature_repo" / "sources.py")
    ]  # fmt: skip


def test_definitions_of_another_repository_are_refused_in_one_sentence(tmp_path: Path) -> None:
    repository = new_repository(tmp_path / ODD)
    result = read(repository, "import feature_repo\n" + READ, PYTHONPATH=str(REPO_ROOT))
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == (
        "extensions.errors.ConfigurationError: Python imported feature_repo from "
        f"{REPO_ROOT / 'feature_repo'}, but the repository is {repository}: take the other folder "
        "out of PYTHONPATH, or run one repository in one process."
    )
