"""The work of a backfill, for a plan: engine, chunks, CPU hours, bytes of log, hot keys."""

from dataclasses import dataclass
from typing import Literal

from extensions.asof import Computation
from extensions.asof.backfill_chunks import DAY
from extensions.engines.backfill import LONGEST, pairs_of_memory
from extensions.engines.verdict import Verdict
from extensions.versions.cost_estimate import Estimate, HotKey
from extensions.versions.engine_choice import EngineSettings, choose


@dataclass(frozen=True)
class Workload:
    """What a backfill is estimated to take.

    Attributes:
        engine: The one that would compute it.
        why: Why that one.
        chunks: Transactions.
        cpu_hours: At most: those of PostgreSQL, which DuckDB spends less than.
        log_bytes: The rows and their index, before compression of any kind.
        hot_keys: Entities with far more work than others; they are cut by time.
    """

    engine: Literal["postgresql", "duckdb"]
    why: str
    chunks: int
    cpu_hours: float
    log_bytes: int
    hot_keys: tuple[HotKey, ...]


def workload(
    computation: Computation,
    estimate: Estimate,
    verdict: Verdict | None,
    settings: EngineSettings,
) -> Workload | None:
    """The work of an estimated backfill; None where its rows were not counted."""
    if estimate.rows is None or estimate.seconds is None or estimate.start >= estimate.end:
        return None
    choice = choose(settings.engine, verdict, estimate.start, estimate.end, estimate.rows)
    span = estimate.end - estimate.start
    if choice.engine == "postgresql":
        chunks = -(-span // DAY)
    else:
        by_memory = -(-estimate.pairs // pairs_of_memory(settings.memory))
        chunks = max(1 if computation.horizon is None else -(-span // LONGEST), by_memory)
    return Workload(
        engine=choice.engine,
        why=choice.why,
        chunks=chunks + 1,  # and the state at its beginning
        cpu_hours=round(estimate.seconds / 3_600, 4),
        log_bytes=estimate.log_bytes,
        hot_keys=estimate.hot_keys,
    )
