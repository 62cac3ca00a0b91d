"""The commands of dead letters among very many of them: bounded memory, each of them once.

``LETTERS`` says how many; `make test-faults` makes a million.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka import KafkaProducer

from extensions.addresses import KAFKA_VARIABLE
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings
from tests.faults.report import record

LETTERS = int(os.environ.get("LETTERS", "20000"))
# What a command may take beyond what it takes among few letters.
MOST_MEGABYTES = 150
_PROGRAM = (
    # Not ru_maxrss, which a child takes over from the process that it was forked from.
    "import sys; from extensions.cli import main; from extensions.cli.app import app\n"
    "try:\n    main(lambda: app(standalone_mode=True))\n"
    "finally:\n"
    "    [peak] = [line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line]\n"
    "    print(peak, file=sys.stderr)\n"
)


def letters(settings: Settings, first: int, count: int) -> None:
    """Letters as a worker sends them, a hundredth of them large, one of a hundred of a reason."""
    producer = KafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap, linger_ms=20, batch_size=512 << 10,
        compression_type="lz4",
    )  # fmt: skip
    topic = settings.topic.encode()
    for number in range(first, first + count):
        headers = [
            *(("reason", b"too-old" if number % 100 == 0 else b"not-json"), ("detail", b"")),
            *(("topic", topic), ("partition", b"0"), ("offset", b"%d" % number)),
            ("timestamp", b"1700000000000"),
        ]
        value = b"{" * (60_000 if number % 500 == 0 else 60)
        producer.send(settings.dead_letter_topic, value, key=b"k", headers=headers, partition=0)
    producer.flush()
    producer.close()


def run(settings: Settings, folder: Path, *words: str) -> tuple[str, float, float]:
    """A `skewless dead-letters` command: its output, seconds, and peak memory in MB."""
    output, began = folder / "output", time.monotonic()
    environment = os.environ | {KAFKA_VARIABLE: settings.kafka_bootstrap}
    command = [sys.executable, "-c", _PROGRAM, "dead-letters", *words, "--topic", settings.topic]
    with output.open("wb") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.PIPE, env=environment, timeout=1500, check=False
        )
    said = done.stderr.decode()
    assert done.returncode == 0, said
    return output.read_text(), time.monotonic() - began, int(said.split()[-1]) / 1024


@pytest.mark.timeout(3600)
def test_commands_among_many_letters_take_no_more_memory(
    settings: Settings, tmp_path: Path
) -> None:
    ensure_topics(settings)
    letters(settings, 0, 200)
    last = f"{settings.topic}/0/{LETTERS - 1}"
    everything = ("list", "--json", "--limit", str(10 * LETTERS))
    few = {
        "list": run(settings, tmp_path, *everything)[2],
        "show": run(settings, tmp_path, "show", f"{settings.topic}/0/199")[2],
        "replay": run(settings, tmp_path, "replay", "--json", "--reason", "too-old")[2],
    }
    letters(settings, 200, LETTERS - 200)
    text, *listed = run(settings, tmp_path, *everything)
    rows = json.loads(text)
    assert len(rows) == LETTERS
    assert [int(row["position"].rpartition("/")[2]) for row in rows] == list(range(LETTERS))
    text, *shown = run(settings, tmp_path, "show", last, "--json")
    assert json.loads(text)[0]["offset"] == LETTERS - 1
    text, *sent = run(settings, tmp_path, "replay", "--json")
    assert json.loads(text) == [{"replayed": LETTERS}]
    text, *table = run(settings, tmp_path, "list", "--limit", str(LETTERS), "--reason", "too-old")
    assert text.count("too-old") == LETTERS // 100
    figures = {"list": listed, "show": shown, "replay": sent, "list --reason": table}
    record(
        f"commands among {LETTERS:,} dead letters",
        seconds={name: round(each[0], 1) for name, each in figures.items()},
        peak_megabytes={name: round(each[1]) for name, each in figures.items()},
        among_200={name: round(each) for name, each in few.items()},
    )
    for name, (_, peak) in figures.items():
        assert peak - few[name.partition(" ")[0]] < MOST_MEGABYTES, name
