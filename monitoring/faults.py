"""The places between a verdict and what follows from it where the crash tests end a process.

Off unless ``SKEWLESS_FAULT`` names a place.
"""

import os
import signal
from enum import Enum

VARIABLE = "SKEWLESS_FAULT"


class Fault(Enum):
    """Each boundary of a step, in the order in which they are passed."""

    VERDICT_RECORDED = "verdict-recorded"
    REACTION_DECIDED = "reaction-decided"
    REACTION_COMMITTED = "reaction-committed"
    ROLLBACK_BEGUN = "rollback-begun"
    ROLLBACK_DONE = "rollback-done"
    ROLLBACK_NOTED = "rollback-noted"
    ALERT_BEGUN = "alert-begun"
    ALERT_SENT = "alert-sent"
    ALERT_NOTED = "alert-noted"


def point(fault: Fault) -> None:
    """Kill the process (SIGKILL) if this failpoint is armed."""
    if os.environ.get(VARIABLE) == fault.value:
        os.kill(os.getpid(), signal.SIGKILL)
