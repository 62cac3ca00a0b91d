"""Which engine fills a range of a log, and filling it: DuckDB for texts that are portable."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import psycopg

from extensions.asof import Computation
from extensions.asof.backfill import Backfill, Progress, backfill
from extensions.asof.definition_fingerprint import Definition
from extensions.database.connection import conninfo_of
from extensions.engines.backfill import DifferentAnswerError, duckdb_chunks
from extensions.engines.duckdb import Limits
from extensions.engines.portability import verdicts
from extensions.engines.verdict import Verdict, record
from extensions.errors import ConflictError, DefinitionError, SkewlessError, UnavailableError
from extensions.stores.registry.version_store import has_versions, published
from extensions.versions.cost_estimate import spine_rows
from extensions.versions.declared_definitions import read_declared

Wanted = Literal["auto", "postgresql", "duckdb"]
Engine = Literal["postgresql", "duckdb"]

# `auto` leaves shorter ranges, and fewer rows, in PostgreSQL: to begin costs more than it saves.
LEAST = timedelta(days=1)
LEAST_ROWS = 20_000


@dataclass(frozen=True)
class EngineSettings:
    """What `feature_store.yaml` and the command line say of the engine of ranges.

    Attributes:
        engine: ``auto``, or one of the two.
        memory: What DuckDB may use, such as ``2GB``.
        spill: A folder for what does not fit into it; None: the system's for temporary files.
    """

    engine: Wanted = "auto"
    memory: str | None = None
    spill: Path | None = None

    @classmethod
    def of(cls, offline_store: Any) -> "EngineSettings":
        """Those of the configuration of our offline store; of another one the defaults."""
        spill = getattr(offline_store, "engine_spill", None)
        return cls(
            getattr(offline_store, "engine", "auto"),
            getattr(offline_store, "engine_memory", None),
            Path(spill) if spill else None,
        )

    def over(self, engine: Wanted | None, memory: str | None) -> "EngineSettings":
        """With what a command names."""
        return replace(self, engine=engine or self.engine, memory=memory or self.memory)

    @property
    def limits(self) -> Limits:
        """The limits of a session."""
        return Limits(memory=self.memory, spill=self.spill)


@dataclass(frozen=True)
class EngineChoice:
    """The engine for a range, and why."""

    engine: Engine
    why: str


def choose(
    wanted: Wanted,
    verdict: Verdict | None,
    start: datetime,
    end: datetime,
    rows: int | None = None,
) -> EngineChoice:
    """The engine for the settled part of ``(start, end]``.

    Args:
        wanted: What was asked for.
        verdict: Of the versions of the engines that are at work; None: nobody asked.
        start: Where the range begins.
        end: Where it ends.
        rows: About how many it has; None: not counted, since they are many.
    """
    if wanted != "auto":
        return EngineChoice(wanted, "it was asked for")
    if end - start < LEAST:
        return EngineChoice("postgresql", "the range is shorter than a day")
    if rows is not None and rows < LEAST_ROWS:
        return EngineChoice("postgresql", f"there are fewer than {LEAST_ROWS:,} rows")
    if verdict is None or verdict.outcome != "portable":
        why = "its text was not compared" if verdict is None else verdict.sentence(hint=False)
        return EngineChoice("postgresql", why)
    return EngineChoice("duckdb", verdict.sentence())


def _verdict(conn: psycopg.Connection, definition: Definition, wanted: Wanted) -> Verdict | None:
    """The verdict on a text; `auto` does without where it cannot be asked or read."""
    try:
        return verdicts(conn, [definition])[definition.fingerprint]
    except (psycopg.Error, SkewlessError):
        if wanted != "auto":
            raise
        return None


def definitions_of(
    conn: psycopg.Connection, computations: Mapping[str, Computation], repo_root: Path
) -> dict[str, Definition]:
    """The definitions of computations, by ``view.vN``: as published, or as the files have them."""
    known = {one.name: one.definition for one in published(conn)} if has_versions(conn) else {}
    missing = computations.keys() - known.keys()
    if missing:
        declared = read_declared(repo_root).definitions.values()
        known |= {each.name: each for each in declared if each.name in missing}
    return {name: known[name] for name in computations if name in known}


def fill(
    conn: psycopg.Connection,
    definition: Definition,
    start: datetime,
    end: datetime,
    *,
    settings: EngineSettings | None = None,
    again: bool = False,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> Backfill:
    """`extensions.asof.backfill.backfill` in the engine that suits the range.

    Where ``auto`` has chosen DuckDB and that cannot go on (memory, or data that its text fails on),
    PostgreSQL does. An answer that PostgreSQL does not give makes the verdict ``not portable``,
    and PostgreSQL replaces what was computed of the range. ``tell`` gets a sentence on either.

    Raises:
        ConflictError: DuckDB was asked for and the text is not portable.
        InputError: as the backfill.
    """
    settings = settings or EngineSettings()
    computation = definition.computation()
    wanted = settings.engine
    long = wanted == "auto" and end - start >= LEAST
    rows = spine_rows(conn, computation, start, end) if long else None
    many = long and (rows is None or rows >= LEAST_ROWS)
    verdict = _verdict(conn, definition, wanted) if many or wanted == "duckdb" else None
    choice = choose(wanted, verdict, start, end, rows)
    if choice.engine == "postgresql":
        return backfill(conn, computation, start, end, again=again, progress=progress)
    assert verdict is not None
    if verdict.outcome == "not portable":
        raise ConflictError(
            f"{computation.name} stays in PostgreSQL, {verdict.sentence()}. Run this with "
            "`--engine postgresql`."
        )
    try:
        with duckdb_chunks(conninfo_of(conn), computation, settings.limits) as engine:
            return backfill(
                conn, computation, start, end, again=again, progress=progress, engine=engine
            )
    except DifferentAnswerError as error:
        example = error.example
        record(
            conn, definition,
            replace(verdict, outcome="not portable", reason=example.sentence(), example=example),
        )  # fmt: skip
        if settings.engine != "auto":
            raise
        again, why = True, f"it is not portable after all: {example.sentence()}"
    except (DefinitionError, UnavailableError) as error:
        if settings.engine != "auto":
            raise
        why = error.message.rstrip(".")
    if tell is not None:
        tell(f"{computation.name}: PostgreSQL goes on, since {why}.")
    return backfill(conn, computation, start, end, again=again, progress=progress)
