"""Whether a worker's steps are traced: decided once, when it starts."""

from extensions import tracing
from streaming.processing.step import Stepper


def stepper_class() -> type[Stepper]:
    """The step as it is, or with spans of OpenTelemetry where traces are switched on."""
    if not tracing.switched_on():
        return Stepper
    from streaming.processing.traced_step import TracedStepper  # noqa: PLC0415 - the extra otel

    TracedStepper.tracer = tracing.tracer()
    return TracedStepper
