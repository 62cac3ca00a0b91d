"""Feast's run-time type checks, put into a function when it is first called and not on import.

Feast decorates its classes with typeguard's ``@typechecked``, which for each function parses its
whole module and compiles it again: for 240 functions, most of the time that ``import feast`` takes,
and so of each command and each start of a server, which call few of them. The checks stay what they
are. Others have met this: https://github.com/agronholm/typeguard/issues/468.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from types import FunctionType
from typing import Any

Check = Callable[..., Any]
Use = Callable[[Any], None]


class _BeforeFeast(MetaPathFinder):
    """Finds no module; when Feast is looked for, changes what it will decorate its classes with."""

    def find_spec(self, fullname: str, *_: Any) -> None:
        """Called by Python for each module that is not imported yet."""
        if fullname == "feast":
            sys.meta_path.remove(self)
            typeguard: Any = importlib.import_module("typeguard")  # not before: it is slow, too
            typeguard.typechecked = functools.partial(_deferred, typeguard.typechecked)


def defer_type_checks() -> None:
    """Let Feast, when it is imported, put each check in on first call; too late if it has been."""
    if "feast" not in sys.modules:
        sys.meta_path.insert(0, _BeforeFeast())


def _deferred(check: Check, target: Any = None, **options: Any) -> Any:
    """As ``check``, which is typeguard's; only Feast's own functions and classes wait for it."""
    if options or not getattr(target, "__module__", "").startswith("feast."):
        return check(target, **options)
    if isinstance(target, FunctionType):
        return _waiting(check, target)
    if not isinstance(target, type):
        return check(target)
    for name, member in list(vars(target).items()):
        if (waiting := _waiting_member(check, target, name, member)) is not None:
            setattr(target, name, waiting)
    return target


def _waiting_member(check: Check, owner: type, name: str, member: Any) -> Any:
    """The member of a class with its functions waiting; None where there is nothing to check."""
    made: Any = None

    def replace(checked: Any) -> None:
        if vars(owner).get(name) is made:  # nobody has put something else there meanwhile
            setattr(owner, name, checked)

    if _is_own(owner, member):
        made = _waiting(check, member, replace)
    elif isinstance(member, (classmethod, staticmethod)) and _is_own(owner, member.__func__):
        kind: Any = type(member)
        made = kind(_waiting(check, member.__func__, lambda checked: replace(kind(checked))))
    elif isinstance(member, property):
        parts: list[Any] = [member.fget, member.fset, member.fdel]
        parts = [_waiting(check, part) if _is_own(owner, part) else part for part in parts]
        kind = type(member)
        made = kind(*parts, member.__doc__)
    return made


def _is_own(owner: type, function: Any) -> bool:
    """Whether the function was written in this class, as typeguard has it."""
    return (
        isinstance(function, FunctionType)
        and function.__module__ == owner.__module__
        and function.__qualname__.startswith(f"{owner.__qualname__}.")
    )


def _waiting(check: Check, function: Any, use: Use | None = None) -> Any:
    """A function that is checked when it is called; ``use`` takes what stands for it from then."""
    checked: Any = None

    @functools.wraps(function)
    def waiting(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if checked is None:
            checked = check(function)
            if use is not None:
                use(checked)
        return checked(*args, **kwargs)

    return waiting
