"""The exceptions that this project raises on purpose: one sentence each, which says what to do.

Catch `SkewlessError` for all of them, or a class for one kind of cause. They know nothing of the
command line, which maps classes to exit codes in `extensions.cli`.
"""

from pathlib import Path


class SkewlessError(Exception):
    """A failure that the user can act on; its message is one sentence for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InputError(SkewlessError):
    """An argument, an option, a file or a row that was handed in cannot be used."""


class NothingToCheckError(SkewlessError):
    """A check could not be made, since what it compares is missing (a baseline, requests)."""


class DefinitionError(SkewlessError):
    """A definition in the feature repository is wrong: a view, a source, its SQL, a transform.

    Args:
        message: What is wrong and what to do.
        file: The file that it is about; it is added to the message unless that names it.
    """

    def __init__(self, message: str, *, file: Path | str | None = None) -> None:
        named = file is None or Path(file).name in message
        super().__init__(message if named else f"{message} (File: {file}.)")
        self.file = None if file is None else Path(file)


class ConfigurationError(SkewlessError):
    """A setting, an address, a permission or an installed part is missing or wrong."""


class ConflictError(SkewlessError):
    """The state of the store forbids it: another operator, a published version, a foreign owner."""


class UnavailableError(SkewlessError):
    """A server or a lock is not available now: the same request may succeed later."""
