"""Spans leave the process by OTLP, its last ones as well; log records name their trace."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from extensions.tracing import OTLP, VARIABLE
from tests.conftest import REPO_ROOT

PROGRAM = """
import logging
from extensions import structured_logs, tracing
from extensions.cli.process_end import run_program

structured_logs.switch_on("serve")

def command():
    logging.warning("outside")
    with tracing.tracer().start_as_current_span("last"):
        logging.warning("within")

run_program(command)
"""


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, VARIABLE: OTLP, **variables},
        cwd=REPO_ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_spans_arrive_at_a_collector() -> None:
    received: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        done = run(OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_EXPORTER_OTLP_COMPRESSION="none")
        server.shutdown()
    assert done.returncode == 0, done.stderr
    [request] = received
    [resource] = request.resource_spans
    named = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert named["service.name"] == "skewless"
    [span] = resource.scope_spans[0].spans
    assert span.name == "last"
    outside, within = (json.loads(line) for line in done.stderr.splitlines())
    assert "trace_id" not in outside
    assert within["trace_id"] == span.trace_id.hex()
    assert within["span_id"] == span.span_id.hex()


def test_a_collector_that_is_away_ends_no_program() -> None:
    done = run(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    assert done.returncode == 0, done.stderr


def test_without_the_extra_a_sentence_says_so() -> None:
    missing = "import sys; sys.modules['opentelemetry.sdk'] = None\n"
    code = missing + "from extensions import tracing\ntracing.tracer()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert "Traces need the extra `otel`" in done.stderr
