"""Exit codes of every command, the same everywhere: the table in docs/operations.md."""

# Done, or nothing was to be done.
OK = 0
# Refused, or a server failed: standard error has a sentence that says what to do.
FAILED = 1
# The command line or an input file cannot be used as it is; nothing was done.
USAGE = 2
# Looked, and something wants attention: an expected deviation, or a change that is pending.
ATTENTION = 3
# Looked, and something is wrong.
WRONG = 4
# Not all that should have been looked at could be.
NOT_CHECKED = 5
# A part of a running program ended by itself (sysexits.h: EX_SOFTWARE); start it again.
BROKEN = 70
# Ctrl-C, as shells count signals: 128 + SIGINT.
INTERRUPTED = 130
