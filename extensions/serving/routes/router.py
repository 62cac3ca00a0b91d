"""Which route a path is: those that services declare, the generic ones, and all others."""

from typing import NamedTuple

from extensions.service_routes import FEATURES, GENERIC_FEATURES, GENERIC_RANK, RANK
from extensions.serving.features.request_plan import Plans
from extensions.serving.http.request_validation import RefusedError
from extensions.serving.routes.feast_app import Scope

ANY = "/v1/features"


class Route(NamedTuple):
    """A route, as a request's path says it.

    Attributes:
        name: Its label in metrics; a path that is no feature route is its own.
        method: The method that a feature route takes; None: it is none.
        service: The feature service; None: the body names it.
        encoded_id: The id in the path, percent-encoded as it came.
        declared: Whether the service's tags declare it, so that they name what is in its replies.
    """

    name: str
    method: str | None = None
    service: str | None = None
    encoded_id: str | None = None
    declared: bool = False


_BATCH = Route(ANY, "POST")
# Other paths that begin as ours do: authorised as ours are, and refused.
_UNKNOWN = Route("/v1", "")


def route_of(scope: Scope, plans: Plans) -> Route:
    """The route of a request.

    Raises:
        RefusedError: 404, for a path whose meaning depends on who decodes it.
    """
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path") or path.encode()
    ranking = plans.rankings.get(path)
    if ranking is not None and b"%" not in raw:
        return Route(path, "POST", ranking.service, None, declared=True)
    for start, encoded, declared in plans.single:
        if path.startswith(start) and raw.startswith(encoded):
            rest = raw[len(encoded) :].partition(b"?")[0].decode("ascii", "replace")
            return Route(start, "GET", declared.service, rest, declared=True)
    if path == ANY and b"%" not in raw:
        return _BATCH
    if raw.startswith(FEATURES.encode()):
        segments = raw[len(FEATURES) :].partition(b"?")[0].decode("ascii", "replace")
        service, slash, given = segments.partition("/")
        if slash and service and "%" not in service:
            return Route(GENERIC_FEATURES, "GET", service, given)
    # Only an id may hold an encoded slash: elsewhere it would make one path out of another.
    ours = path == RANK[:-1] or path.startswith((ANY, RANK, *(s for s, _, _ in plans.single)))
    if b"%" in raw and (b"%2f" in raw.lower() or ours or ranking is not None):
        raise RefusedError(
            404, "There is no such route: outside of an id, paths are not percent-encoded."
        )
    if path.startswith(RANK) and "/" not in path[len(RANK) :] and path != RANK:
        return Route(GENERIC_RANK, "POST", path[len(RANK) :])
    return _UNKNOWN if ours else Route(path)
