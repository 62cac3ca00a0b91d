"""How a program of ours ends: everything that Python does at its end, but for its own teardown.

When Python tears itself down, a native thread that still holds one of its objects (a thread of
Arrow's pool with a buffer of NumPy's, for example) wants the interpreter's lock once more. It is
ended by unwinding instead, through C++ that cannot be unwound, and the process aborts with
``terminate called without an active exception``, after all its work was done
(https://github.com/apache/arrow/issues/34314).
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

# Python's own code where what was written last cannot be delivered.
_NOT_WRITTEN = 120


def run_program(command: Callable[[], object]) -> NoReturn:
    """Call ``command`` and end the process with its exit code; an exception is shown as always.

    Raises:
        KeyboardInterrupt: nobody took it; Python ends the process by the signal.
    """
    if os.getpid() == 1:
        # A container's first process: the kernel discards signals that it has no handler for.
        signal.signal(signal.SIGTERM, _end_as_terminated)
    try:
        command()
        code = 0
    except SystemExit as error:
        code = _exit_code(error)
    except Exception:  # noqa: BLE001 - shown, as Python would
        sys.excepthook(*sys.exc_info())
        code = 1
    end_process(code)


def end_process(code: int) -> NoReturn:
    """Wait for threads that are not daemons, run what is registered for the end, flush, and end."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
        atexit._run_exitfuncs()  # noqa: SLF001
    except BaseException:  # noqa: BLE001 - shown; nothing may keep the process from its end
        sys.excepthook(*sys.exc_info())
        code = code or 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # nobody reads it any more; closed; none
            code = code or _NOT_WRITTEN
    os._exit(code)


def _end_as_terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def _exit_code(error: SystemExit) -> int:
    """As Python takes it: none is 0, and anything but a number is a message and 1."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)  # noqa: T201
    return 1
