"""Drift checks: windows of the serving log, schedule, stored verdicts, causes, calibration."""
