"""Requests of the feature routes that a worker answers before its first client's."""

from collections.abc import Iterator

from extensions.service_routes import GENERIC_FEATURES, GENERIC_RANK
from extensions.serving.features.request_plan import Plan, Plans
from extensions.serving.http import responses
from extensions.serving.http.openapi_services import example_id

# Services without a route of their own whose requests are made.
MOST = 4
# Items of a ranking.
SIZES = (1, 100)


def example_requests(plans: Plans) -> Iterator[tuple[str, str, bytes]]:
    """Method, path and body of requests for the services with routes, or for a few of them."""
    found = [plan for plan in plans.by_service.values() if isinstance(plan, Plan)]
    for plan in [plan for plan in found if plan.route] or found[:MOST]:
        keys = plan.own_keys
        if not keys or any(field.default_at is None for field in plan.request.values()):
            continue
        first = example_id(plan.key_types[keys[0]], 1)
        if len(keys) == 1:
            generic = GENERIC_FEATURES.replace("{service}", plan.service)
            yield "GET", f"{plan.route.path if plan.route else generic}{first}", b""
        if len(keys) == 2:
            generic = GENERIC_RANK.replace("{service}", plan.service)
            path = plan.route.path if plan.route else generic
            names, kind = plan.names or plan.own_names, plan.key_types[keys[1]]
            for size in SIZES:
                items = [example_id(kind, number) for number in range(size)]
                yield "POST", path, responses.dumps({names.entity: first, names.items: items})
