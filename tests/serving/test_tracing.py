"""Traces of requests: from the caller's context to the round trip to Redis."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from feast import FeatureStore
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from extensions import tracing
from extensions.serving.settings import Settings
from tests.conftest import REPO_ROOT
from tests.served import serving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def traced(
    feast_store: FeatureStore, repo_root: Path, exporter: InMemorySpanExporter
) -> Iterator[httpx.Client]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(tracing.VARIABLE, tracing.OTLP)
        patch.setattr(tracing, "tracer", lambda: provider.get_tracer("test"))
        for url in serving(Settings(repo=repo_root), feast_store):
            with httpx.Client(base_url=url, timeout=10) as client:
                yield client


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> InMemorySpanExporter:
    exporter.clear()
    return exporter


def finished(exporter: InMemorySpanExporter, count: int) -> tuple[ReadableSpan, ...]:
    """At least so many spans: a request's ends when its response was sent, a little after."""
    deadline = time.monotonic() + 10
    while len(exporter.get_finished_spans()) < count:
        assert time.monotonic() < deadline, exporter.get_finished_spans()
        time.sleep(0.01)
    return exporter.get_finished_spans()


def named(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """A request's span, and that of its round trip."""
    return {span.name: span for span in finished(exporter, 2)}


@pytest.mark.parametrize(
    ("method", "path", "body", "route"),
    [
        ("GET", "/v1/features/user/1", None, "/v1/features/user/"),
        ("POST", "/v1/features/rank", {"userId": 1, "itemIds": [1, 2]}, "/v1/features/rank"),
    ],
)
def test_a_callers_trace_goes_on_to_redis(
    traced: httpx.Client, spans: InMemorySpanExporter, method: str, path: str, body: object,
    route: str,
) -> None:  # fmt: skip
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    traced.request(method, path, json=body, headers=headers).raise_for_status()
    found = named(spans)
    request, redis = found[f"{method} {route}"], found["redis"]
    assert f"{request.context.trace_id:032x}" == TRACE
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert (request.kind, redis.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert redis.parent is not None
    assert redis.parent.span_id == request.context.span_id
    assert redis.context.trace_id == request.context.trace_id
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 200
    assert redis.start_time is not None
    assert redis.end_time is not None
    assert request.end_time is not None
    assert redis.start_time < redis.end_time < request.end_time


def test_without_a_context_a_trace_begins_here(
    traced: httpx.Client, spans: InMemorySpanExporter
) -> None:
    for headers in ({}, {"traceparent": "no context"}):
        spans.clear()
        traced.get("/v1/features/user/1", headers=headers).raise_for_status()
        request = named(spans)["GET /v1/features/user/"]
        assert request.parent is None
        assert f"{request.context.trace_id:032x}" != TRACE


def test_no_id_is_in_a_span(traced: httpx.Client, spans: InMemorySpanExporter) -> None:
    for path in (
        "/v1/features/user/987654321",
        "/somewhere/987654321",
        "/v1/features/user/no-987654321",
    ):
        traced.get(path)
    assert not any("987654321" in span.to_json() for span in finished(spans, 4))


def test_probes_make_no_spans(traced: httpx.Client, spans: InMemorySpanExporter) -> None:
    for path in ("/health", "/ready", "/metrics"):
        assert traced.get(path).status_code == 200
    assert spans.get_finished_spans() == ()


def test_an_error_is_marked(traced: httpx.Client, spans: InMemorySpanExporter) -> None:
    assert traced.get("/v1/features/user/no-id").status_code == 422
    [refused] = finished(spans, 1)
    assert refused.status.status_code is StatusCode.UNSET  # the caller's mistake


OFF = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.sdk") or name.startswith("opentelemetry.exporter"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, NotInstalled())
from extensions.serving.observability.request_tracing import traced_application, traced_redis
from streaming.processing.step import Stepper
from streaming.processing.step_tracing import stepper_class
given = object()
assert traced_application(given) is given and traced_redis(given) is given
assert stepper_class() is Stepper
assert not [name for name in sys.modules if "traced_" in name]
"""


def test_off_adds_nothing() -> None:
    """Neither a wrapper, nor a branch for each request or step, nor an import."""
    off = {name: value for name, value in os.environ.items() if name != tracing.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", OFF], env=off, cwd=REPO_ROOT, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
