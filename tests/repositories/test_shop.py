"""examples/shop says truly what it declares; its README is run by `make test-long`."""

import json
import re

from tests.conftest import REPO_ROOT
from tests.repositories.places import done, run

SHOP = REPO_ROOT / "examples" / "shop"
README = (SHOP / "README.md").read_text()


COUNT = """
import collections, json
from feast.repo_contents import RepoContents
from extensions.asof.computation_loading import read_repository
from pathlib import Path
found = read_repository(Path.cwd())
print(json.dumps({
    "streams": sum(type(each).__name__ == "KafkaSource" for each in found.data_sources),
    "feature views": len(found.feature_views),
    "features": sum(len(view.features) for view in found.feature_views),
    "transform": len(found.on_demand_feature_views),
    "services": len(found.feature_services),
    "seed": len(list(Path("feature_repo/seeds").iterdir())),
    **collections.Counter(view.tags["freshness"] for view in found.feature_views),
}))
"""


def test_the_readme_counts_what_the_shop_declares() -> None:
    counted = json.loads(done(run("python", "-c", COUNT, cwd=SHOP)))
    assert (counted.pop("realtime"), counted.pop("hourly")) == (5, 3)
    assert "Five follow the streams within a second, three are computed each hour" in README
    for what, number in counted.items():
        assert re.search(rf"\b{number} {what}\b", README), (what, number)


def test_its_simulator_passes_its_suite() -> None:
    """In a process of its own: a process works for one repository."""
    suite = REPO_ROOT / "tests" / "repositories" / "shop_simulator_suite.py"
    done(
        run("pytest", "-q", "-p", "no:cacheprovider", suite, cwd=REPO_ROOT,
            SKEWLESS_TESTED_REPOSITORY=str(SHOP))
    )  # fmt: skip
