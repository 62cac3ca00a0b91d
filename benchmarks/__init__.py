"""Side-by-side measurements: ours, stock Feast or the published design, and the limit.

`uv run python -m benchmarks.<name> [--quick] [--json FILE]` starts what it needs, measures both
sides in one run on the same work, compares their outputs, prints a table and writes JSON.
"""
