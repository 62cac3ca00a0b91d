"""Failpoints between the steps of apply, promote and retire; see `extensions.failpoints`."""

from enum import Enum


class Fault(Enum):
    """A failpoint after each step, in the order of the steps."""

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
