"""A document's commands, run as they are written in a folder of their own."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from extensions.local.ports import free_port
from extensions.serving.settings import DEFAULT_PORT
from tests.repositories.places import PROGRAMS, plain_environment
from tests.test_quick_start import Step, Terminal, missing, wait_for


def follow(steps: Sequence[Step], folder: Path) -> None:
    """Run the steps of a document that makes the repository ``shop`` in ``folder``.

    `skewless up` is the second terminal's: it goes on until the document starts it again, or ends.
    """
    port = free_port()
    environment = plain_environment(SKEWLESS_PORT=str(port))
    environment["PATH"] = os.pathsep.join([str(PROGRAMS), environment["PATH"]])
    first = Terminal(folder, environment)
    ups: list[subprocess.Popen[str]] = []
    with ExitStack() as exits:
        for number, step in enumerate(steps):
            printed = tuple(line.replace(str(DEFAULT_PORT), str(port)) for line in step.printed)
            if step.path:
                (folder / "shop" / step.path).write_text(step.text)
            elif step.command == "skewless up":
                if ups:
                    _stop(ups.pop())
                log = folder / f"up-{number}.log"
                ups.append(
                    subprocess.Popen(
                        ["skewless", "up"], cwd=folder / "shop", env=environment, text=True,
                        stdout=exits.enter_context(log.open("w")), stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )  # fmt: skip
                exits.callback(_stop, ups[-1])
                wait_for(ups[-1], log, printed)
            else:
                output = first.run(step.command.replace(str(DEFAULT_PORT), str(port)))
                line = missing(printed, output)
                worker = folder / "shop" / ".skewless" / "ingest.log"
                more = worker.read_text()[-2000:] if worker.exists() else ""
                assert line is None, f"$ {step.command}\nprints no {line!r}, but\n{output}{more}"


def _stop(up: subprocess.Popen[str]) -> None:
    """As Ctrl-C in its terminal."""
    if up.poll() is None:
        os.killpg(up.pid, signal.SIGINT)
    up.wait(60)
