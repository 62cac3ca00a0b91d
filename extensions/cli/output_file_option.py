"""Output files as options and arguments: a pipe or a device in their place is refused at once."""

from pathlib import Path

from extensions.output_files import output_path


def output_file(value: Path | None) -> Path | None:
    """Callback of an option or argument: the path, if a file may be put there.

    Raises:
        InputError: a folder, a pipe, a device or a socket is there.
    """
    if value is not None:
        output_path(value)
    return value
