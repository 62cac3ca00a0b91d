"""A platform that runs: its repository applied over a seeded history, and an HTTP server."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
import redis
from feast import FeatureStore

from extensions import addresses
from extensions.asof import Computation, Freshness, load_computations
from extensions.asof.tick import tick
from extensions.database import connect
from extensions.history.declared_tables import declared_sources
from extensions.history.simulate import SimulationResult, new_simulation, simulate
from extensions.operations.database_setup import prepare_database
from extensions.serving.settings import Settings
from extensions.sources import Sources
from extensions.stores.log_publishing import publish
from extensions.versions.apply import apply
from extensions.versions.maintained_versions import live_computations
from tests.platforms.description import Platform
from tests.platforms.truth import Truth
from tests.served import serving, wait_for
from tests.versions.repositories import Repository

BACKFILLED = timedelta(days=2)


@dataclass(frozen=True)
class Asked:
    """One entity's features as HTTP told them at a time; ``entity`` with the request's field."""

    service: str
    at: datetime
    entity: Mapping[str, Any]
    features: Mapping[str, Any]


@dataclass
class World:
    """A platform, what was served of it so far (``asked``), and when it began."""

    platform: Platform
    repository: Repository
    url: str
    declared: Mapping[str, Computation]
    sources: Sources
    simulated: SimulationResult
    conn: psycopg.Connection
    rng: random.Random = field(default_factory=lambda: random.Random(11))
    asked: list[Asked] = field(default_factory=list)
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    http: httpx.Client = field(default_factory=httpx.Client)

    @property
    def root(self) -> Path:
        return self.repository.root

    @property
    def project(self) -> str:
        return addresses.project_name(self.root) or ""

    @property
    def pair(self) -> tuple[str, str]:
        """The keys of the rank service's two entities."""
        [keys] = {each.join_keys for each in self.declared.values() if len(each.join_keys) == 2}
        return keys[0], keys[1]

    def store(self) -> FeatureStore:
        return FeatureStore(str(self.root))

    def truth(self) -> Truth:
        return Truth.of(self.platform, self.conn, self.sources)

    def live(self) -> dict[str, Computation]:
        """Every version that is maintained now."""
        return live_computations(self.conn, self.declared)

    def realtime(self) -> list[Computation]:
        """Those that follow the streams."""
        return [each for each in self.live().values() if each.freshness is Freshness.REALTIME]

    def apply(self, since: datetime | None = None) -> None:
        with self.repository.current():
            apply(self.conn, self.root, since=since)

    def refresh(self) -> None:
        """Compute and publish every version as of now."""
        store = self.store()
        for computation in self.live().values():
            tick(self.conn, computation)
            publish(store, self.conn, computation)

    def stage(self) -> None:
        """Declare the second version, and apply: computed and online, not served."""
        second = self.platform.second
        first = self.repository.path(f"computations/{second.view}.v1.sql")
        assert first.read_text().count(second.old) == 1
        self.repository.path(f"computations/{second.view}.v2.sql").write_text(
            first.read_text().replace(second.old, second.new)
        )
        second.declare(self.repository)
        self.apply()

    def ids(self, truth: Truth) -> tuple[list[Any], list[Any]]:
        """All ids of the rank service's two entities."""
        leading, others = (truth.entities((key,)) for key in self.pair)
        return [key for (key,) in leading], [key for (key,) in others]

    def ask(self, truth: Truth, requests: int = 6) -> list[Asked]:
        """The published routes and the general one, which must tell the same; kept in `asked`."""
        leading, others = self.ids(truth)
        found = []
        for _ in range(requests):
            user = self.rng.choice(leading)
            found += [self.page(user), *self.rank(user, self.rng.choices(others, k=5))]
        self.asked += found
        return found

    def page(self, user: Any) -> Asked:
        """One entity's features by their published route."""
        routes = self.platform.routes
        reply = self._reply("GET", routes.page_path(quote(str(user), safe="")))
        name, features = routes.page_names
        assert reply[name] == user
        entity = {self.pair[0]: user}
        asked = Asked(routes.page, datetime.now(UTC), entity, reply[features])
        [same] = self.features(routes.page, [entity])
        assert same == asked.features
        return asked

    def rank(self, user: Any, others: list[Any]) -> list[Asked]:
        """Features of many by their published route, one for each of ``others``."""
        routes = self.platform.routes
        leading, many, one = routes.rank_names
        field_name, published, largest = routes.context
        context = self.rng.randint(0, largest)
        body = {leading: user, many: others, "context": {published: context}}
        reply = self._reply("POST", routes.rank_path, body)
        own, of_other, of_pair = routes.groups
        assert reply[leading] == user
        assert [item[one] for item in reply["items"]] == others
        rows = [{**reply[own], **item[of_other], **item[of_pair]} for item in reply["items"]]
        keys = [dict(zip(self.pair, (user, other), strict=True)) for other in others]
        now = datetime.now(UTC)
        assert self.features(routes.rank, keys, {published: context}) == rows
        return [
            Asked(routes.rank, now, {**entity, field_name: context}, row)
            for entity, row in zip(keys, rows, strict=True)
        ]

    def rank_only(self, user: Any, others: list[Any]) -> None:
        """A request whose reply nobody looks at."""
        routes = self.platform.routes
        leading, many, _ = routes.rank_names
        _, published, largest = routes.context
        context = {published: self.rng.randint(0, largest)}
        self._reply("POST", routes.rank_path, {leading: user, many: others, "context": context})

    def served_version(self, view: str) -> int:
        """The version of a view that the rank service serves."""
        routes = self.platform.routes
        leading, many, _ = routes.rank_names
        [user], [other] = ([each[0]] for each in self.ids(self.truth()))
        reply = self._reply(
            "POST", f"{routes.rank_path}?include=meta", {leading: user, many: [other]}
        )
        return int(reply["meta"][view]["version"])

    def features(
        self, service: str, entities: list[dict[str, Any]], context: Mapping[str, Any] | None = None
    ) -> list[Mapping[str, Any]]:
        """The general route."""
        body: dict[str, Any] = {"service": service, "entities": entities}
        if context:
            body["context"] = context
        results = self._reply("POST", "/v1/features", body)["results"]
        assert [row["entity"] for row in results] == entities
        return [row["features"] for row in results]

    def _reply(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The reply. On a machine that is busy Redis may be away for a moment, and then says so."""
        replies: list[httpx.Response] = []

        def answered() -> bool:
            replies.append(self.http.request(method, path, json=body))
            return replies[-1].status_code != 503

        wait_for(answered)
        assert replies[-1].status_code == 200, replies[-1].text
        found: dict[str, Any] = replies[-1].json()
        return found


@contextmanager
def world(
    platform: Platform,
    repo_root: Path,
    url: str,
    redis_url: str,
) -> Iterator[World]:
    """A seeded history, the repository applied, all values online, an HTTP server that logs all.

    The repository is a copy, whose files may be edited.
    """
    redis.Redis.from_url(redis_url).flushdb()
    # Workers' imports begin now, beside what follows.
    forkserver.ensure_running()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(addresses.POSTGRES_VARIABLE, url)
        patch.setenv(addresses.REDIS_VARIABLE, redis_url)
        patch.chdir(repo_root)
        # Before the checkout's own folder: definitions that were edited are imported anew.
        patch.syspath_prepend(str(repo_root))
        prepare_database(url, repo_root)
        now = datetime.now(UTC)
        until = now - timedelta(minutes=5)
        sources = declared_sources(url, repo_root)
        simulation = new_simulation(repo_root, **platform.parameters, until=until)
        simulated = simulate(url, simulation, sources)
        with connect(url, autocommit=True) as conn:
            made = World(
                platform, Repository(repo_root), url, load_computations(repo_root), sources,
                simulated, conn,
            )  # fmt: skip
            made.apply(since=now - BACKFILLED)
            settings = Settings(repo=repo_root, max_items=200, log_rate=1.0)
            for address in serving(settings, made.store()):
                with httpx.Client(base_url=address, timeout=20) as made.http:
                    yield made
