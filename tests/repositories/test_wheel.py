"""The engine as a wheel: built, installed in an empty environment, run on a new repository.

The environment's folder of packages is left as it was installed: nothing is written beside the
engine's files, which elsewhere belong to root or to an image.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPO_ROOT
from tests.repositories.places import done, new_repository, run, up, visit

UV = shutil.which("uv") or REPO_ROOT / ".uv" / "bin" / "uv"


def uv(*arguments: str | Path) -> None:
    result = subprocess.run(
        [UV, *arguments], capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as an index does: no leftovers of other builds."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--out-dir", folder, REPO_ROOT)
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("environment")
    # The locked versions, without their hashes: a wheel that was built here has none.
    lock = (REPO_ROOT / "locks" / "development.txt").read_text()
    constraints = folder / "constraints.txt"
    constraints.write_text(re.sub(r"( \\)?\n    --hash=\S+", "", lock))
    uv("venv", "--quiet", "--python", sys.executable, folder / "venv")
    uv(
        "pip", "install", "--quiet", "--python", folder / "venv" / "bin" / "python",
        "--constraints", constraints, f"skewless[local] @ {wheel.as_uri()}",
    )  # fmt: skip
    return folder / "venv" / "bin"


def test_the_wheel_has_the_engine_alone_and_all_of_it(wheel: Path) -> None:
    rooms = ("extensions", "streaming", "monitoring")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = set()
    for room in rooms:
        for parent, folders, names in os.walk(REPO_ROOT / room, followlinks=True):
            folders[:] = [name for name in folders if name != "__pycache__"]
            wanted |= {str(Path(parent, name).relative_to(REPO_ROOT)) for name in names}
    assert packed == wanted
    for needed in (
        "extensions/database/migrations/0002.control.sql", "extensions/py.typed",
        "extensions/templates/media/feature_repo/views.py",
        "extensions/templates/shop/feature_repo/seeds/categories.json",
        "extensions/templates/shop/feature_repo/simulator/shop.py",
        "extensions/local/kafka/pom.xml",
    ):  # fmt: skip
        assert needed in packed


def listed(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below with its size and time of change."""
    return {
        str(path.relative_to(folder)): (found.st_size, found.st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
        for found in [path.stat()]
    }


@pytest.mark.timeout(300)
def test_a_new_repository_works_with_the_installed_engine_alone(
    environment: Path, tmp_path: Path
) -> None:
    [packages] = environment.parent.glob("lib/python*/site-packages")
    before = listed(packages)
    # Compiled files go elsewhere, as where the packages' folder may not be written.
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path / "compiled"), "PATH": os.defpath}
    skewless = environment / "skewless"
    where = done(
        run(environment / "python", "-c", "import extensions; print(extensions.__path__[0])",
            cwd=tmp_path, **compiled)
    )  # fmt: skip
    assert Path(where.strip()) == packages / "extensions"
    repository = new_repository(tmp_path / "shop", program=skewless, **compiled)
    with up(repository, "--port", "0", program=skewless, **compiled) as running:
        running.send("visits", visit(1, "ada", "/start"), visit(2, "ada", "/end"))
        running.becomes({"visits_7d": 2, "last_page_7d": "/end"}, "visitor", visitor_id="ada")
        done(run(skewless, "migrate", cwd=repository, **compiled))
        assert "No changes" in done(run(skewless, "plan", cwd=repository, **compiled))
        applied = done(run(environment / "feast", "apply", cwd=repository, **compiled))
        assert "Traceback" not in applied
        assert running.features("visitor", visitor_id="bob") == {
            "visits_7d": 0, "last_page_7d": "",
        }  # fmt: skip
    assert listed(packages) == before
