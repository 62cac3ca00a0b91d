"""The platform's streams: each row's message is read as that very row, and tables take it."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from extensions.addresses import project_name
from extensions.asof.computation_loading import read_repository
from extensions.database import connect
from extensions.sources import load_sources
from streaming.decoding import RowDecoder
from streaming.kafka.message_decoder import Message, RejectedError
from tests.platforms.conftest import insert
from tests.platforms.description import Platform

END = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_messages_are_their_rows(fresh_database: str, platform: Platform, repo_root: Path) -> None:
    contents = read_repository(repo_root)
    rows = platform.history(Random(9), END)
    with connect(fresh_database, autocommit=True) as conn:
        insert(conn, rows)
        sources = load_sources(contents, conn, project_name(repo_root) or "")
        assert {stream.table.name for stream in sources.streams.values()} == set(platform.bad)
        for stream in sources.streams.values():
            decoder = RowDecoder(stream)
            for number, row in enumerate(rows[stream.table.name]):
                message = Message(
                    stream.topic, 0, number, 0, None, platform.message(stream.table.name, row)
                )
                [found] = decoder.decode(message, END)
                told = dict(zip(decoder.columns, found, strict=True))
                expected = {name: row[name] for name in decoder.columns}
                for name, value in told.items():
                    if stream.table.by_name[name].pg_type == "numeric" and value is not None:
                        told[name] = Decimal(value)
                assert told == expected
            for value in platform.bad[stream.table.name]:
                with pytest.raises(RejectedError):
                    decoder.decode(Message(stream.topic, 0, 0, 0, None, value), END)
            for silent in platform.silent.get(stream.table.name, ()):
                assert decoder.decode(Message(stream.topic, 0, 0, 0, None, silent), END) == []
