"""Statistics of distributions that version diffs and drift checks share."""
