"""Commands of streams: ingest, replay, status, dead-letters, stream skip."""

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from extensions.cli.console import AsJson, emit, line, moment, wrapped
from extensions.cli.metrics_options import MetricsHost, MetricsPort
from extensions.cli.progress import progress
from extensions.errors import InputError

if TYPE_CHECKING:
    from streaming.settings import Settings

Stream = Annotated[str, typer.Option(help="A declared stream (a KafkaSource), by its name.")]
Topic = Annotated[str, typer.Option(help="Another topic than the declared one.")]
Group = Annotated[str, typer.Option(help="Another consumer group than the declared one.")]

letters = typer.Typer(
    help="Messages that could not be read: list, show, replay.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


operators = typer.Typer(
    help="What only an operator decides: leaving out a batch that cannot be read.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    app.command(
        help="Run a stream worker until Ctrl-C; run several to share the partitions.",
        epilog="Example: `skewless ingest --metrics-port 9101`",
    )(ingest)
    app.command(
        help="Produce recorded or stored events again, at a chosen rate.",
        epilog="Examples: `skewless replay events.jsonl --rate 500` · "
        "`skewless replay --from 2026-01-31T08:00:00Z`",
    )(replay)
    app.command(
        help="Partitions, workers, realtime views, refused entities: how far, how far behind.",
        epilog="Example: `skewless status --json`",
    )(status)
    letters.command("list", epilog="Example: `skewless dead-letters list --reason out-of-range`")(
        list_letters
    )
    letters.command("show", epilog="Example: `skewless dead-letters show watch-events/0/42`")(
        show_letter
    )
    letters.command("replay", epilog="Example: `skewless dead-letters replay watch-events/0/42`")(
        replay_letters
    )
    app.add_typer(letters, name="dead-letters")
    operators.command(
        "skip",
        epilog="Example: `skewless stream skip watch-events/0/42 --why 'a codec of no one here'`",
    )(skip_batch)
    app.add_typer(operators, name="stream")


def ingest(
    stream: Stream = "",
    topic: Topic = "",
    group: Group = "",
    on_lost: Annotated[
        Literal["stop", "earliest"],
        typer.Option(help="When Kafka no longer holds the next offset."),
    ] = "stop",
    batch_records: Annotated[
        int, typer.Option(help="Most events of a step, while the worker keeps up.")
    ] = 2_000,
    catch_up_records: Annotated[
        int, typer.Option(help="Most events of a step, while it is behind.")
    ] = 10_000,
    batch_wait: Annotated[float, typer.Option(help="Seconds a step gathers.")] = 0.04,
    max_future: Annotated[
        float | None,
        typer.Option(help="Seconds an event may lie in the future, not as declared."),
    ] = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
) -> None:
    """All declared streams, or one. A killed worker loses nothing: its place is in PostgreSQL.

    It starts again by itself when `skewless apply` or `migrate` has changed the streams.
    """
    settings = _settings(
        stream=stream,
        topic=topic,
        group=group,
        on_lost=on_lost,
        batch_records=batch_records,
        catch_up_records=catch_up_records,
        batch_wait=batch_wait,
        max_future=max_future,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
    )
    from streaming.worker import run

    # Where JSON is logged, this changes nothing: there is a handler.
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.WARNING)
    if run(settings):
        # Definitions are modules, which a process imports once.
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - this very command


def replay(
    file: Annotated[Path | None, typer.Argument(help="JSON lines in the published shape.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Stored events from this ISO time on.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="… up to this ISO time.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Events a second; all at once if left.")
    ] = None,
    stream: Stream = "",
    topic: Topic = "",
    as_json: AsJson = False,
) -> None:
    """Give a file or --from. Known ids are not stored again; their values are computed anew."""
    from streaming.kafka.event_replay import replay as run

    since = moment(start, "--from")
    source = file or since
    if source is None or (file and since):
        raise InputError("Give a file of JSON lines, or --from TIME.")
    with progress("Producing events"):
        done = run(_one(stream, topic), source, until=moment(end, "--to"), rate=rate)
    emit([done], as_json)


def status(
    stream: Stream = "", topic: Topic = "", group: Group = "", as_json: AsJson = False
) -> None:
    """As of the workers' last look; each declared stream, or one."""
    from extensions.database.refused_of_views import REFUSED_ADVICE
    from streaming.stream_status import known_streams
    from streaming.stream_status import status as look

    settings = _one(stream, topic) if stream else _settings(topic=topic, group=group)
    streams = [settings] if topic and group else known_streams(settings)
    found = [look(each) for each in streams]
    if as_json:
        emit(found, as_json)
        return
    if not found:
        line("No stream has been read yet; start `skewless ingest`.")
        return
    for one in found:
        if len(found) > 1:
            line(f"Topic {one.topic}, group {one.group}")
        for title, rows in (("Partitions", one.partitions), ("Workers", one.workers)):
            line(title if rows else f"{title}: none yet; start `skewless ingest`.")
            emit(list(rows), as_json)
    views = found[0].views
    line("Realtime views" if views else "Realtime views: none yet; start `skewless ingest`.")
    emit(list(views), as_json)
    if refused := found[0].refused:
        line("Refused entities")
        emit(refused, as_json)
        wrapped(REFUSED_ADVICE)


def skip_batch(
    position: Annotated[
        str, typer.Argument(help="TOPIC/PARTITION/OFFSET of the stop, as `status` shows it.")
    ],
    why: Annotated[str, typer.Option(help="Your reason; it is kept.")],
    stream: Stream = "",
    group: Group = "",
    as_json: AsJson = False,
) -> None:
    """Let a stopped partition go on behind the batch; the records in it are lost to the stream."""
    from streaming.declared_streams import settings_of
    from streaming.kafka.stopped_partitions import skip

    topic = position.rpartition("/")[0].rpartition("/")[0]
    # A stop is of the stream that reads the topic, where none was named.
    streams = settings_of(_settings(stream=stream))
    found = next((one for one in streams if one.topic == topic), streams[0])
    emit([skip(replace(found, group=group or found.group), position, why)], as_json)


def list_letters(
    reason: Annotated[str | None, typer.Option(help="Only those of this reason.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many.")] = 100,
    stream: Stream = "",
    topic: Topic = "",
    as_json: AsJson = False,
) -> None:
    """Where each came from and why it was refused; never its content, which may be personal."""
    from streaming.kafka.dead_letters import each

    found = each(_one(stream, topic), reason=reason, limit=limit)
    emit(({"position": letter.position, "reason": letter.reason} for letter in found), as_json)


def show_letter(
    position: Annotated[str, typer.Argument(help="TOPIC/PARTITION/OFFSET, as `list` shows it.")],
    stream: Stream = "",
    topic: Topic = "",
    as_json: AsJson = False,
) -> None:
    """One dead letter, its original bytes included."""
    from streaming.kafka.dead_letters import show

    emit([show(_one(stream, topic), position)], as_json)


def replay_letters(
    position: Annotated[
        str | None, typer.Argument(help="TOPIC/PARTITION/OFFSET of one; else all.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Only those of this reason.")] = None,
    stream: Stream = "",
    topic: Topic = "",
    as_json: AsJson = False,
) -> None:
    """Send the original bytes to the topic again, after what refused them was mended."""
    from streaming.kafka.dead_letters import replay as run

    emit([{"replayed": run(_one(stream, topic), position=position, reason=reason)}], as_json)


def _one(stream: str, topic: str) -> "Settings":
    from streaming.declared_streams import one_stream

    return one_stream(_settings(stream=stream, topic=topic))


def _settings(**options: object) -> "Settings":
    from extensions.addresses import kafka_bootstrap, postgres_url
    from streaming.settings import Settings

    return Settings(
        postgres_url=postgres_url(),
        kafka_bootstrap=kafka_bootstrap(),
        **options,  # type: ignore[arg-type]
    )
