"""The as-of engine: asks a computation what was true of each entity at a moment.

A computation is one SQL text over a relation named ``spine`` (join keys, ``as_of``). The stream,
the ticks, backfills, training sets, audits and tests differ only in the spine they bring.
"""

from extensions.asof.computation import Computation, FeatureColumn, Freshness, HistorySource
from extensions.asof.computation_loading import load_computations
from extensions.asof.engine import append, compute
from extensions.asof.spine import Spine, active, everyone
from extensions.asof.spine_changes import changes, touched

__all__ = [
    "Computation",
    "FeatureColumn",
    "Freshness",
    "HistorySource",
    "Spine",
    "active",
    "append",
    "changes",
    "compute",
    "everyone",
    "load_computations",
    "touched",
]
