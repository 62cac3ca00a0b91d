"""Clients generated from the OpenAPI document, in Python and in TypeScript, are run on a server.

Each prints what it read through its generated types; it must be what the server answers.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = Path(__file__).parent
TYPESCRIPT = HERE / "typescript_client"
NODE = shutil.which("node") and shutil.which("npm")
needs_node = pytest.mark.skipif(
    not NODE, reason="The TypeScript client needs Node.js and npm, which are not installed."
)


@pytest.fixture(scope="module")
def wanted(http: httpx.Client) -> dict[str, Any]:
    """What the clients must print."""
    user = http.get("/v1/features/user/1").json()["features"]
    other = http.get("/v1/features/user/2").json()["features"]
    context = {"requestHour": 21}
    body = {"userId": 1, "itemIds": [1, 2, 3], "context": context}
    items = http.post("/v1/features/rank", json=body).json()["items"]
    feasts = {"feature_service": "home_page", "entities": {"user_id": [1]}}
    names = http.post("/get-online-features", json=feasts).json()["metadata"]["feature_names"]
    count = "user_watch_count_7d"
    return {
        "watched": user[count],
        "preferences": user["user_genre_preferences"],
        "version": 1,
        "items": [1, 2, 3],
        "begun": [item["interactionFeatures"]["continue_watching"] for item in items],
        "counts": [user[count], other[count]],
        "status": 422,
        "field": "context.requestHour",
        "names": names,
    }


@pytest.fixture(scope="module")
def schema(http: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(http.get("/openapi.json").text)
    return path


def ran(command: Sequence[str | Path], folder: Path, **variables: str) -> str:
    """The output of a command; a failure shows all that it wrote."""
    done = subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_python_client(url: str, schema: Path, tmp_path: Path, wanted: dict[str, Any]) -> None:
    config = tmp_path / "config.yml"
    config.write_text("post_hooks: []\n")
    package = tmp_path / "skewless_client"
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", schema]
    ran([*command, "--output-path", package, "--meta", "none", "--config", config], tmp_path)
    use = [sys.executable, HERE / "python_client_use.py", url]
    assert json.loads(ran(use, tmp_path, PYTHONPATH=str(tmp_path))) == wanted


@needs_node
def test_a_typescript_client(
    url: str, schema: Path, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    folder = tmp_path / "client"
    shutil.copytree(TYPESCRIPT, folder, ignore=shutil.ignore_patterns("node_modules"))
    ran(["npm", "ci", "--no-audit", "--no-fund"], folder)
    ran(["npx", "--no", "openapi-typescript", schema, "--output", "schema.d.ts"], folder)
    ran(["npx", "--no", "tsc"], folder)
    assert json.loads(ran(["node", "out/client.js", url], folder)) == wanted
    # The types are those of this repository's features: another name does not compile.
    source = folder / "client.ts"
    source.write_text(source.read_text().replace("user_watch_count_7d", "user_watch_count_8d"))
    with pytest.raises(AssertionError, match="user_watch_count_8d"):
        ran(["npx", "--no", "tsc", "--noEmit"], folder)
