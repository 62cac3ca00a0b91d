"""`skewless init`: a folder that works at once, in which nothing is overwritten."""

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml
from feast.repo_config import load_repo_config
from feast.repo_operations import is_valid_name

from extensions.errors import InputError
from extensions.exit_codes import USAGE
from extensions.repository_templates import TEMPLATES, make_repository
from tests.conftest import REPO_ROOT
from tests.databases import copied
from tests.repositories.places import ODD, done, new_repository, run, servers


@pytest.fixture
def empty_database(postgres_server: str) -> Iterator[str]:
    with copied(postgres_server, "template1") as url:
        yield url


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_new_repository_is_migrated_applied_and_refreshed(
    template: str, tmp_path: Path, empty_database: str, redis_server: str
) -> None:
    repository = new_repository(tmp_path / ODD, template, project=f"new_{template}")
    # With the checkout before all else on the path of modules, its definitions are not taken.
    named = servers(empty_database, redis_server) | {"PYTHONPATH": str(REPO_ROOT)}
    below = repository / "feature_repo"
    assert "0001." in done(run("skewless", "migrate", cwd=below, **named))
    applied = done(run("feast", "apply", cwd=repository, **named))
    refreshed = done(run("skewless", "--repo", repository, "refresh", cwd=tmp_path, **named))
    with psycopg.connect(empty_database) as conn:
        assert conn.execute("SELECT project FROM project_claim").fetchall() == [
            (f"new_{template}",)
        ]
    for path in below.glob("computations/*.v1.sql"):
        assert path.name.removesuffix(".v1.sql") in applied
        assert path.name.removesuffix(".v1.sql") in refreshed


@pytest.mark.parametrize(
    ("template", "root", "project"),
    [("media", REPO_ROOT, "skewless"), ("shop", REPO_ROOT / "examples" / "shop", "shop")],
)
def test_a_platforms_template_is_the_checkouts_own_repository(
    template: str, root: Path, project: str, tmp_path: Path
) -> None:
    repository = new_repository(tmp_path / "made", template, project="mine")
    ours, theirs = (
        {
            str(path.relative_to(folder / "feature_repo")): path.read_text()
            for path in sorted((folder / "feature_repo").rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }
        for folder in (root, repository)
    )
    entities = theirs.pop("entities.py")
    assert ours.pop("entities.py").replace(f'name="{project}"', 'name="mine"') == entities
    assert "simulator/__init__.py" in ours
    assert ours == theirs


def test_the_shop_is_made_with_its_own_readme(tmp_path: Path) -> None:
    repository = new_repository(tmp_path / "made", "shop")
    shop = REPO_ROOT / "examples" / "shop"
    for name in ("README.md", ".gitignore", ".feastignore"):
        assert (repository / name).read_text() == (shop / name).read_text()


def test_templates_are_configured_as_this_checkout_is(tmp_path: Path) -> None:
    ours = yaml.safe_load((REPO_ROOT / "feature_store.yaml").read_text())
    theirs = yaml.safe_load((new_repository(tmp_path / "x") / "feature_store.yaml").read_text())
    shops = yaml.safe_load((REPO_ROOT / "examples" / "shop" / "feature_store.yaml").read_text())
    # A prefix of our own: several repositories may share one Redis.
    assert ours.pop("project") == ours["online_store"].pop("key_prefix") + "ewless"
    assert theirs.pop("project") == shops.pop("project") == "shop"
    assert shops["online_store"].pop("key_prefix") == "shop"
    assert theirs == ours == shops


def test_no_template_keeps_a_placeholder(tmp_path: Path) -> None:
    for template in TEMPLATES:
        repository = new_repository(tmp_path / template, template)
        texts = [path.read_text() for path in repository.rglob("*") if path.is_file()]
        assert texts
        assert not any("@PROJECT@" in text or "@ABOUT@" in text for text in texts)


def test_a_folder_that_holds_something_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shop" / "data").mkdir(parents=True)
    (tmp_path / "shop" / "README.md").write_text("mine")
    result = run("skewless", "init", "shop", cwd=tmp_path)
    assert result.returncode == USAGE
    [sentence] = result.stderr.strip().splitlines()
    assert "is not empty (it has README.md, data)" in sentence
    assert sorted(path.name for path in (tmp_path / "shop").iterdir()) == ["README.md", "data"]
    assert (tmp_path / "shop" / "README.md").read_text() == "mine"
    (tmp_path / "file").write_text("")
    assert run("skewless", "init", "file", cwd=tmp_path).returncode == USAGE
    # A repository is not made twice, either.
    made = json.loads(done(run("skewless", "init", "new", "--json", cwd=tmp_path)))
    assert made[0]["project"] == "new"
    assert run("skewless", "init", "new", cwd=tmp_path).returncode == USAGE


def test_git_and_an_environment_may_be_there_before(tmp_path: Path) -> None:
    for name in (".git", ".venv"):
        (tmp_path / "shop" / name).mkdir(parents=True)
    done(run("skewless", "init", ".", cwd=tmp_path / "shop"))
    assert (tmp_path / "shop" / "feature_store.yaml").exists()


def test_a_folders_hyphen_is_an_underscore_of_the_project(tmp_path: Path) -> None:
    done(run("skewless", "init", "my-shop", cwd=tmp_path))
    assert "project: my_shop\n" in (tmp_path / "my-shop" / "feature_store.yaml").read_text()


@pytest.mark.parametrize(
    ("folder", "advice"),
    [("My shop", "--project my_shop"), ("_x", "--project x"), ("店", "--project"), ("a.b", "a_b")],
)
def test_a_folders_name_that_is_no_projects_is_said(
    folder: str, advice: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=advice):
        make_repository(tmp_path / folder, "minimal", None)
    assert not (tmp_path / folder).exists()


@pytest.mark.parametrize("name", ["shop", "Shop-2", "a_b", "2x", "-x", "_x", "x y", "é", "", "a\n"])
def test_a_projects_name_is_valid_here_where_it_is_for_feast(name: str, tmp_path: Path) -> None:
    # Feast's own rule, less the hyphen, which its configuration refuses nevertheless.
    if name and is_valid_name(name) and name.isascii() and "-" not in name:
        made = make_repository(tmp_path / "x", "minimal", name)
        assert made.project == name
        assert load_repo_config(made.folder, made.folder / "feature_store.yaml").project == name
    else:
        with pytest.raises(InputError, match="cannot be a project's name"):
            make_repository(tmp_path / "x", "minimal", name)


def test_an_unknown_template_is_told_which_there_are(tmp_path: Path) -> None:
    result = run("skewless", "init", "x", "--template", "medio", cwd=tmp_path)
    assert result.returncode == USAGE
    assert "minimal, media, shop" in result.stderr
    assert "media?" in result.stderr
