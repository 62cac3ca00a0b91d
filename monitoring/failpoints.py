"""The failpoints between a verdict and what follows from it, see `extensions.failpoints`."""

from enum import Enum


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
