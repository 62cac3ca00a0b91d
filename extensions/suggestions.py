"""“Did you mean …?” for names that are nearly right."""

import difflib
from collections.abc import Iterable

_CUTOFF = 0.8


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` is most likely meant to be, if it is near one."""
    found = difflib.get_close_matches(name.strip().lower(), list(known), n=1, cutoff=_CUTOFF)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence after a blank, `` Did you mean x?``, or nothing."""
    near = nearest(name, known)
    return f" Did you mean {near}?" if near else ""
