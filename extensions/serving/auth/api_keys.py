"""Static API keys, from the settings or from a file that is read again while the server serves."""

import hmac
import logging
import stat
import threading
from pathlib import Path

from extensions.errors import ConfigurationError, SkewlessError
from extensions.thread_supervision import Lasting

logger = logging.getLogger(__name__)

# Larger files hold no keys.
MOST_BYTES = 65_536


class ApiKeys:
    """The valid API keys; any of them is accepted.

    A file holds one key a line (blank lines and lines that begin with ``#`` do not count) and is
    read again every ``period`` seconds. So keys are rotated without a restart: add the new one,
    move the callers, remove the old one. A file that is gone, empty or cannot be read changes
    nothing: the keys last read stay in force, and a warning is logged.

    Raises:
        SkewlessError: the file holds no key when the server starts.
    """

    def __init__(self, key: str | None, file: Path | None, period: float) -> None:
        self._file, self._period = file, period
        self._given = () if key is None else (key.encode(),)
        self._keys = self._given
        self._stop = threading.Event()
        self._said = ""
        self.threads: list[Lasting] = []
        if file is not None:
            self._keys = (*self._given, *_read(file))

    @property
    def demanded(self) -> bool:
        """Whether a key is configured."""
        return bool(self._keys)

    def start(self) -> None:
        """Start to follow the file in the background."""
        if self._file is not None:
            self.threads.append(Lasting("keys", self._run, self._stop))
            self.threads[-1].start()

    def stop(self) -> None:
        """Stop following it."""
        self._stop.set()

    def valid(self, given: bytes | None) -> bool:
        """Whether this is one of the keys; compared in constant time."""
        found = False
        for key in self._keys:
            found |= hmac.compare_digest(given or b"", key)
        return found

    def _run(self) -> None:
        assert self._file is not None  # started for a file only
        while not self._stop.wait(self._period):
            try:
                self._keys = (*self._given, *_read(self._file))
                self._said = ""
            except SkewlessError as error:
                if error.message != self._said:
                    self._said = error.message
                    logger.warning("The keys last read stay in force. %s", error.message)


def _read(file: Path) -> tuple[bytes, ...]:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise ConfigurationError(
                f"{file} is no regular file: --api-key-file names a text file."
            )
        with file.open("rb") as opened:
            text = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"The keys in {file} cannot be read ({error.strerror}): see --api-key-file."
        ) from error
    lines = (line.strip() for line in text.splitlines())
    keys = tuple(line for line in lines if line and not line.startswith(b"#"))
    if not keys or len(text) > MOST_BYTES:
        raise ConfigurationError(
            f"{file} holds no keys: write one a line, {MOST_BYTES} bytes at most."
        )
    return keys
