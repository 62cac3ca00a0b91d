"""A child process that dies with its parent: spawn it, stop it by its pid, notice its death."""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from extensions.errors import ConfigurationError, ConflictError, SkewlessError, UnavailableError

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_LOG_LIMIT_BYTES = 10_000_000
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Account:
    """The user and group that a child runs as when it must not run as we do."""

    uid: int
    gid: int


class Child:
    """A running program, and the file with what it printed since it was spawned."""

    def __init__(
        self,
        name: str,
        process: "subprocess.Popen[bytes]",
        log_path: Path,
        log_start: int,
        stop_signals: tuple[signal.Signals, ...],
    ) -> None:
        self.name = name
        self.process = process
        self.log_path = log_path
        self._log_start = log_start
        self._stop_signals = stop_signals

    @property
    def pid(self) -> int:
        """The process id; also the id of the process group that it leads."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """False once the program has ended, however it ended."""
        return self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while alive; the exit status, or minus the number of the signal that ended it."""
        return self.process.poll()

    def wait(self, timeout: float) -> int | None:
        """The exit code, or None when it is still alive after ``timeout`` seconds."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, timeout: float = 10.0) -> None:
        """Ask it to end, and kill it ``timeout`` seconds later; a dead child stays dead."""
        stop_all([self], timeout)

    def last_words(self, lines: int = 6) -> str:
        """The last lines that it printed, joined into one; empty when it printed nothing.

        At most 1,000 characters, without the frames of a Java stack trace.
        """
        try:
            with self.log_path.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, end - 30_000))
                printed = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        said = [line.strip() for line in printed]
        said = [line for line in said if line and not line.startswith(("at ", "... "))]
        return " | ".join(said[-lines:])[-1_000:]

    def rotate_log(self, limit: int = _LOG_LIMIT_BYTES) -> None:
        """Move a log larger than ``limit`` bytes to ``NAME.old.log``, replacing the one before.

        The program keeps its file: it is copied and emptied (as logrotate's ``copytruncate``
        does), and the program, which appends, goes on at its beginning. Lines that are printed
        between the two steps are lost.
        """
        try:
            if self.log_path.stat().st_size <= limit:
                return
            shutil.copyfile(self.log_path, _old(self.log_path))
            os.truncate(self.log_path, 0)
        except FileNotFoundError:  # somebody moved it away
            return
        self._log_start = 0

    def _signal(self, number: signal.Signals, *, group: bool = False) -> None:
        # Between poll() and the signal the child can only become a zombie, whose pid is still
        # ours: nobody but this object reaps it.
        if self.alive:
            (os.killpg if group else os.kill)(self.pid, number)


def spawn(
    argv: Sequence[str | Path],
    name: str,
    log_path: Path,
    env: Mapping[str, str] | None = None,
    *,
    cwd: Path | None = None,
    account: Account | None = None,
    stdin: bytes | None = None,
    lock: int | None = None,
    stop_signals: tuple[signal.Signals, ...] = (signal.SIGTERM,),
) -> Child:
    """Start a program whose output is appended to ``log_path``, and which ends when we end.

    ``env`` replaces the environment (None passes ours on), ``stdin`` is all that it can read
    (at most 64 KiB), ``lock`` is a file descriptor from :func:`hold_folder` that the child keeps.
    ``stop_signals`` are tried one after the other before SIGKILL; the first one is also what the
    child gets when we die without stopping it.

    Raises ConfigurationError when the program cannot be started, RuntimeError when called from a
    thread other than the main one.
    """
    # Linux sends the parent-death signal when the *thread* that forked ends, not the process.
    # A server spawned from a worker thread would die with that thread; the main thread lives
    # as long as the process does.
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            f"{name} must be spawned from the main thread: it would end with this thread"
        )
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with _open_log(log_path) as log:
        log_start = log.tell()
        try:
            process = subprocess.Popen(
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                pass_fds=() if lock is None else (lock,),
                # Ctrl-C in a terminal reaches every process of the session's foreground group.
                # Children get a session of their own, so that the parent stops them in order.
                start_new_session=True,
                # subprocess changes user before it calls preexec_fn. The order matters: a change
                # of credentials clears the parent-death signal.
                user=None if account is None else account.uid,
                group=None if account is None else account.gid,
                extra_groups=None if account is None else [],
                preexec_fn=_end_with(os.getpid(), stop_signals[0]),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ConfigurationError(
                f"{name} cannot be started with {argv[0]}: {error}."
            ) from error
    if stdin is not None and process.stdin is not None:
        # One that died before it read says why by its exit code and its log.
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(stdin)
    return Child(name, process, log_path, log_start, stop_signals)


def run(
    argv: Sequence[str | Path],
    name: str,
    log_path: Path,
    timeout: float,
    env: Mapping[str, str] | None = None,
    *,
    cwd: Path | None = None,
    account: Account | None = None,
    stdin: bytes | None = None,
) -> None:
    """Run a program to its end; SkewlessError with its last words when it fails or is too slow."""
    child = spawn(argv, name, log_path, env, cwd=cwd, account=account, stdin=stdin)
    try:
        code = child.wait(timeout)
    finally:
        child.stop(timeout=1.0)
    if code is None:
        raise UnavailableError(f"{name} did not finish within {timeout:.0f} s; see {log_path}.")
    if code != 0:
        raise SkewlessError(f"{name} failed: {child.last_words() or f'exit code {code}'}.")


def stop_all(children: Sequence[Child], timeout: float = 10.0) -> None:
    """Stop children side by side within ``timeout`` seconds; those still alive then are killed."""
    rounds = max((len(child._stop_signals) for child in children), default=1)
    for step in range(rounds):
        for child in children:
            child._signal(child._stop_signals[min(step, len(child._stop_signals) - 1)])
        deadline = time.monotonic() + timeout / rounds
        for child in children:
            child.wait(max(0.0, deadline - time.monotonic()))
    for child in children:
        child._signal(signal.SIGKILL, group=True)
    for child in children:
        child.process.wait()


def wait_any(children: Sequence[Child], timeout: float | None = None) -> Child | None:
    """The first of ``children`` found dead; None when all live ``timeout`` seconds from now."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        for child in children:
            if not child.alive:
                return child
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_SECONDS)


def hold_folder(folder: Path, name: str, timeout: float = 20.0) -> int:
    """Lock ``folder`` for one server, and return the file descriptor that holds the lock.

    Pass it to :func:`spawn` and close it: the lock then belongs to the child and to everything
    that the child forks, so a successor waits until the last of them is really gone, also when
    both our parents were killed. Raises ConflictError after ``timeout`` seconds.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                continue
            os.close(descriptor)
            raise ConflictError(
                f"Another {name} is using {folder}: stop it, or choose another folder."
            ) from None
        except BaseException:
            os.close(descriptor)
            raise


def _end_with(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    """What the child does between fork and exec; None where there is no parent-death signal."""
    if _LIBC is None:
        return None
    prctl = _LIBC.prctl

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        # The parent may have died before the line above: then no signal will come.
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def _old(log_path: Path) -> Path:
    return log_path.with_suffix(".old" + log_path.suffix)


def _open_log(path: Path) -> IO[bytes]:
    if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
        path.replace(_old(path))
    log = path.open("ab")
    log.seek(0, os.SEEK_END)
    return log
