"""OpenTelemetry traces, the optional extra ``otel``: where they go, and whose trace goes on.

Switched on by ``--traces otlp`` or ``SKEWLESS_TRACES=otlp`` for any program; the SDK's own
variables (``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER``, …) say the rest. Whoever is
traced asks `switched_on` once, when it is built, and is wrapped where it is: without traces no
call, no branch and no import is added to a request or a step. Spans hold names, counts and
positions; never ids of entities, and no values.
"""

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from extensions import structured_logs
from extensions.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

VARIABLE = "SKEWLESS_TRACES"
OTLP = "otlp"
_NAME = "skewless"


def switched_on() -> bool:
    """Whether this process exports traces."""
    return os.environ.get(VARIABLE) == OTLP


@functools.cache
def tracer() -> "Tracer":
    """The process's tracer, whose spans are exported from a thread of its own; call after a fork.

    Raises:
        ConfigurationError: the extra ``otel`` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "Traces need the extra `otel`: install locks/otel.txt, or leave out --traces."
        ) from error
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": _NAME}
    # It registers its own shutdown, which exports what is left, with `atexit`.
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    structured_logs.extra_fields.append(current_ids)
    return provider.get_tracer(_NAME)


def remote_context(carrier: Mapping[str, str]) -> "Context":
    """The W3C trace context of a request's or a message's headers; empty where there is none."""
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    return TraceContextTextMapPropagator().extract(carrier, Context())


def current_ids() -> dict[str, str]:
    """The ids of the trace and span that are current, for a log record."""
    from opentelemetry.trace import (  # noqa: PLC0415
        format_span_id,
        format_trace_id,
        get_current_span,
    )

    found = get_current_span().get_span_context()
    if not found.is_valid:
        return {}
    return {"trace_id": format_trace_id(found.trace_id), "span_id": format_span_id(found.span_id)}
