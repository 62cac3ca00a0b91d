"""The repository's declared streams, as settings of the worker and the tools beside it."""

from dataclasses import replace

from extensions.addresses import project_name
from extensions.asof.computation_loading import history_sources, read_repository
from extensions.errors import InputError
from extensions.sources.loading import DeclaredStream, declared_streams
from extensions.suggestions import did_you_mean
from streaming.settings import Settings


class NoStreamError(InputError):
    """The repository declares no stream at all."""


def settings_of(settings: Settings) -> list[Settings]:
    """Settings of each declared stream, or of the one that ``settings`` names.

    Raises:
        NoStreamError: the repository declares no stream.
        InputError: it declares none of that name; or several, where a topic or a group was given
            for one.
    """
    contents = read_repository(settings.repo_root)
    declared = declared_streams(contents, project_name(settings.repo_root) or "")
    if not declared:
        raise NoStreamError(
            "The repository declares no stream: declare a KafkaSource with a batch_source."
        )
    if settings.stream and settings.stream not in declared:
        raise InputError(
            f"There is no stream {settings.stream}; declared are {', '.join(declared)}."
            f"{did_you_mean(settings.stream, declared)}"
        )
    chosen = [declared[settings.stream]] if settings.stream else list(declared.values())
    if len(chosen) > 1 and (settings.topic or settings.group):
        raise InputError(
            f"Say which stream the topic or group is of (--stream): {', '.join(declared)}."
        )
    return [_of(settings, stream, several=len(chosen) > 1) for stream in chosen]


def one_stream(settings: Settings) -> Settings:
    """Settings of the only stream, or of the one that ``settings`` names.

    Raises:
        InputError: as `settings_of`; or there are several, and none was named.
    """
    found = settings_of(settings)
    if len(found) > 1:
        names = ", ".join(each.stream for each in found)
        raise InputError(f"Say which stream (--stream): {names}.")
    return found[0]


def streams_by_table(settings: Settings) -> dict[str, list[tuple[str, str]]]:
    """The (group, topic) of the streams that fill each table; the settings' own as they say."""
    contents = read_repository(settings.repo_root)
    declared = declared_streams(contents, project_name(settings.repo_root) or "")
    tables = history_sources(contents.data_sources)
    found: dict[str, list[tuple[str, str]]] = {}
    for stream in declared.values():
        own = stream.name == settings.stream or len(declared) == 1
        group, topic = (settings.group, settings.topic) if own else ("", "")
        place = (group or stream.group, topic or stream.topic)
        found.setdefault(tables[stream.table].table, []).append(place)
    return found


def _of(settings: Settings, stream: DeclaredStream, *, several: bool) -> Settings:
    return replace(
        settings,
        stream=stream.name,
        topic=settings.topic or stream.topic,
        group=settings.group or stream.group,
        worker=f"{settings.worker}-{stream.name}" if several else settings.worker,
        kafka_bootstrap=stream.bootstrap or settings.kafka_bootstrap,
    )
