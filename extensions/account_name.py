"""The account that a process runs as, for records of who did something."""

from getpass import getuser


def account_name() -> str:
    """Its name; ``unknown`` where the user id has none, as in many containers."""
    try:
        return getuser()
    except (KeyError, OSError):
        return "unknown"
