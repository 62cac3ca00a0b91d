"""Functions and classes of the repository that a stream names by import path."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from extensions.errors import DefinitionError


def load_hook(stream: str, tag: str, path: str) -> Callable[..., Any]:
    """The function, or the class, at ``module.name``.

    Raises:
        DefinitionError: there is no such module or name, or it cannot be called.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:
        raise DefinitionError(
            f"The stream {stream} names {path} as its {tag}, which cannot be imported "
            f"({type(error).__name__}): write the path as module.name, from the folder of the "
            "repository."
        ) from error
    if not callable(found):
        raise DefinitionError(f"The stream {stream} names {path} as its {tag}: it is no function.")
    hook: Callable[..., Any] = found
    return hook
