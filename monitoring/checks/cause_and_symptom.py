"""Causes and symptoms: a finding that follows from another one raises no alarm of its own.

Where many more entities than in training have no row, their views' features all take their
defaults, and so does what transforms make of them: the missing rows are the finding.
"""

from collections.abc import Sequence
from dataclasses import replace

from monitoring.baselines.feature_baseline import Feature
from monitoring.verdicts import CRITICAL, SYMPTOM, WARNING, Finding

# A feature that left the log, and known entities' vectors in it, have nothing to do with the rows
# that were asked for.
_OF_THEIR_OWN = ("schema", "anchors")


def muted(findings: Sequence[Finding], features: Sequence[Feature]) -> list[Finding]:
    """The findings, with those that follow from critical `defaults` as symptoms."""
    causes = {
        finding.feature
        for finding in findings
        if finding.statistic == "defaults" and finding.verdict == CRITICAL
    }
    of: dict[str, str] = {}
    for feature in features:
        for view in (feature.view, *feature.reads):
            if view in causes:
                of.setdefault(feature.label, view)
    return [
        replace(
            finding, verdict=SYMPTOM, because=f"follows from `defaults` of {of[finding.feature]}"
        )
        if finding.feature in of
        and finding.verdict in (WARNING, CRITICAL)
        and finding.statistic not in _OF_THEIR_OWN
        else finding
        for finding in findings
    ]
