"""The places between the steps of apply, promote and retire where the crash tests end a process.

Off unless ``SKEWLESS_FAULT`` names a place.
"""

import os
import signal
from enum import Enum

VARIABLE = "SKEWLESS_FAULT"


class Fault(Enum):
    """Each boundary of a step, in the order in which they are passed."""

    APPLY_PLANNED = "apply-planned"
    APPLY_LOGS_MADE = "apply-logs-made"
    APPLY_PUBLISHED = "apply-published"
    APPLY_FILL_BEGUN = "apply-fill-begun"
    APPLY_BACKFILLED = "apply-backfilled"
    APPLY_TICKED = "apply-ticked"
    APPLY_ONLINE = "apply-online"
    APPLY_COMPLETED = "apply-completed"
    MOVE_CHECKED = "move-checked"
    MOVE_STATES_SET = "move-states-set"
    MOVE_FEAST_WRITTEN = "move-feast-written"
    MOVE_NOTED = "move-noted"
    MOVE_COMMITTED = "move-committed"
    RETIRE_CHECKED = "retire-checked"
    RETIRE_MARKED = "retire-marked"
    RETIRE_COMMITTED = "retire-committed"
    RETIRE_ONLINE_REMOVED = "retire-online-removed"
    RETIRE_ONLINE_NOTED = "retire-online-noted"
    RETIRE_LOG_DROPPED = "retire-log-dropped"


def point(fault: Fault) -> None:
    """Pass this place; the process ends here, without any farewell, when it is the armed one."""
    if os.environ.get(VARIABLE) == fault.value:
        os.kill(os.getpid(), signal.SIGKILL)
