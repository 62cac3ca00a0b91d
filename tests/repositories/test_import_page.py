"""docs/import.md, run as it is written: from a file of the wild to a feature over HTTP."""

import gzip
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO_ROOT
from tests.repositories.documents import follow
from tests.test_quick_start import Step, steps

PAGE = (REPO_ROOT / "docs" / "import.md").read_text()
EXAMPLES, WALK = PAGE.split("\n## Examples\n")[1].split("\n## From a file to a served feature\n")
# The tables of the page's examples, as their owners would declare them.
TABLES = {
    "movies": "user_id bigint NOT NULL, movie_id bigint NOT NULL, rating real, rated_at",
    "reviews": 'reviewer text COLLATE "C" NOT NULL, asin text COLLATE "C" NOT NULL, at',
    "plays": 'listener text COLLATE "C" NOT NULL, artist text, played_at',
    "carts": "visitor_id bigint NOT NULL, item_id bigint NOT NULL, added_at",
}
DECLARED = """
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
"""
# By file, relative to the repository.
FILES = {
    "ratings.dat": "7::1193::5::874965758\n7::661::3::874965759\n",
    "events.csv": "timestamp,visitorid,event,itemid\n1433221332117,1,view,2\n"
    "1433221332118,1,addtocart,2\n",
    "userid-timestamp.tsv": "user_1\t2009-05-04T23:08:57Z\tx\tDeep Dish\n"
    "user_2\t2009-05-04T13:54:10Z\tx\tBjörk\n",
}
REVIEWS = "user,item,rating,timestamp\nAKJ,0762451459,5.0,1387152000\nakj,B01,4.0,1387152001\n"
# The other files of the wild, into the walk's table: the command, its user, how many rows, stars.
OTHERS = {
    "skewless import ratings ../text_ids.csv --map user_id=visitor --map item_id=sku "
    "--map rating=stars --map rated_at=time": ("u-é:1", 2, 4.5),
    "skewless import ratings ../plays.csv --map user_id=userid --map item_id=sku "
    "--map rated_at=time": ("p-1", 2, -1.0),
    "skewless import ratings ../mine.csv --set user_id=anna --map rating=stars "
    "--map rated_at=time": ("anna", 1, 2.0),
}


def examples() -> list[Step]:
    """The page's examples; the table of MovieLens has another name beside the walk's own."""
    found = [
        Step(step.command.partition("  #")[0].replace("import ratings ", "import movies "))
        for step in steps(EXAMPLES)
    ]
    assert len(found) == 4
    return found


def walk() -> Iterator[Step]:
    """The page's walk, with the examples' tables in its migration and the other files behind."""
    for step in steps(WALK):
        if step.command.startswith("skewless migrate"):
            for path, text in extra_files().items():
                yield Step(path=path, text=text)
        yield step
    yield from examples()
    for command in OTHERS:
        yield Step(command, ("inserted",))
    yield Step("skewless refresh --view taste", ("taste",))
    for user, rows, stars in OTHERS.values():
        body = json.dumps({"service": "rater", "entities": [{"user_id": user}]})
        command = f"curl -s http://127.0.0.1:8566/v1/features -d {shlex.quote(body)}"
        yield Step(command, (f'"features":{{"rows":{rows},"stars":{stars}}}',))


def extra_files() -> dict[str, str]:
    ddl = "".join(
        f"CREATE TABLE {name} ({columns} timestamptz NOT NULL);\n"
        f"CREATE INDEX {name}_by_time ON {name} ({columns.split()[-1]});\n"
        for name, columns in TABLES.items()
    )
    sources = "".join(
        f"{name} = PostgreSQLSource(name={name!r}, table={name!r}, "
        f"timestamp_field={columns.split()[-1]!r}, "
        f"tags={{'keys': {columns.split()[0]!r}, 'oldest': '1990-01-01'}})\n"
        for name, columns in TABLES.items()
    )
    return {
        "feature_repo/history/0003.examples.sql": ddl,
        "feature_repo/examples.py": DECLARED + sources,
        **FILES,
    }


@pytest.mark.timeout(900)
def test_every_command_of_the_page_works_and_files_of_the_wild_are_served(tmp_path: Path) -> None:
    ratings = [(1193, 5), (661, 3), (914, 4)]
    lines = [f"1::{item}::{stars}::{874965758 + n}" for n, (item, stars) in enumerate(ratings)]
    (tmp_path / "ratings.dat").write_text("\n".join(lines) + "\n", encoding="latin-1")
    (tmp_path / "text_ids.csv").write_text(
        "visitor;sku;stars;time\nu-é:1;A-1;4;2024-03-01 10:00\nu-é:1;a-1;5;2024-03-01 10:01\n"
    )
    (tmp_path / "plays.csv").write_text("userid,sku,time\np-1,A-1,2024/03/01\np-1,A-2,2024/03/02\n")
    (tmp_path / "mine.csv").write_text("item_id,stars,time\nA-9,2,1709287200\n")
    written = []
    for step in walk():
        if step.command.startswith("skewless import reviews"):
            made = "\n".join(
                f"import gzip; open('reviews-{n}.csv.gz', 'wb').write("
                f"{gzip.compress(REVIEWS.encode(), mtime=0)!r})"
                for n in (1, 2)
            )
            written.append(Step(f"python -c {shlex.quote(made)}"))
        written.append(step)
    written.append(Step("skewless import carts events.csv --where \"event = 'addtocart'\" --map "
                        "visitor_id=visitorid --map item_id=itemid --map added_at=timestamp --json",
                        ('"duplicates": 1',)))  # fmt: skip
    follow(written, tmp_path)
