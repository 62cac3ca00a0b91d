"""Routes of feature services: the generic ones, and those that a service's tags declare.

Every service of one entity answers ``GET /v1/features/{service}/{id}``, every service of a pair
``POST /v1/rank/{service}``. A service's tags declare a route of its own beside it:

``route``  its path: with the id as its last segment for a service of one entity
           (``/v1/features/visitor/{visitor_id}``), without for a pair (``/v1/products``)
``names``  what ids and features are called there: ``visitor_id=visitorId``; of a pair also
           ``sku=sku`` (one of the list), ``sku[]=skus`` (the list), ``features``,
           ``item_features`` and ``pair_features``. What is not named keeps its own name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from extensions.errors import DefinitionError
from extensions.suggestions import did_you_mean

ROUTE_TAG, NAMES_TAG = "route", "names"
FEATURES, RANK = "/v1/features/", "/v1/rank/"
# The generic routes, up to the id.
GENERIC_FEATURES, GENERIC_RANK = "/v1/features/{service}/", "/v1/rank/{service}"
# Where the generic rankings begin, and what is the server's own or Feast's.
_TAKEN = (RANK, "/v1/openapi.json", "/v1/vector_stores")
_PATH = re.compile(r"(/v1(?:/[A-Za-z0-9_.-]+)+)(?:/\{([A-Za-z_][A-Za-z0-9_]*)\})?")
# What else stands in requests and replies.
_OWN = frozenset({"context", "layout", "items", "latencyMs", "meta", "plan"})


@dataclass(frozen=True)
class ReplyNames:
    """What ids and features are called in the requests and replies of a route.

    ``entity``: the id of the entity whose features these are, of a pair the leading one. Of a
    pair: ``items``, the list of the others' ids, and ``item``, one of them.
    """

    entity: str
    item: str = ""
    items: str = ""
    features: str = "features"
    item_features: str = "item_features"
    pair_features: str = "pair_features"

    @classmethod
    def of(cls, keys: Sequence[str]) -> "ReplyNames":
        """The names of the generic routes: the join keys' own.

        Raises:
            DefinitionError: two things would have one name.
        """
        return cls(keys[0], *[keys[1]] * 2) if len(keys) > 1 else cls(keys[0])

    @property
    def all(self) -> tuple[str, ...]:
        """Every name that a reply or a request can have beside the server's own."""
        pair = (self.items, self.item_features, self.pair_features) if self.item else ()
        return (self.entity, self.features, *pair)

    def clash(self) -> str | None:
        """A name that would stand for two things; None: there is none."""
        names = [*self.all, *_OWN]
        if self.item in (self.item_features, self.pair_features) and self.item:
            return self.item
        return next((name for name in names if names.count(name) > 1), None)


@dataclass(frozen=True)
class DeclaredRoute:
    """A route that a service's tags declare.

    Attributes:
        service: The feature service.
        path: Its path, up to the id where there is one (``/v1/features/visitor/``).
        parameter: What the id in the path is called; None: a ranking, whose ids are in the body.
        names: The tag ``names``, by the names that they replace.
    """

    service: str
    path: str
    parameter: str | None
    names: Mapping[str, str]

    @classmethod
    def of(cls, service: str, tags: Mapping[str, str]) -> "DeclaredRoute | None":
        """The route that the tags declare, if they do.

        Raises:
            DefinitionError: a tag cannot be read, or the path is another route's.
        """
        path = tags.get(ROUTE_TAG)
        if path is None:
            if NAMES_TAG in tags:
                raise DefinitionError(
                    f"The service {service} has the tag {NAMES_TAG} without a tag {ROUTE_TAG}."
                )
            return None
        match = _PATH.fullmatch(path)
        if match is None:
            raise DefinitionError(
                f"The tag {ROUTE_TAG} of service {service} must be a path such as "
                f"/v1/features/visitor/{{visitor_id}} or /v1/products, not {path!r}."
            )
        plain, parameter = match.groups()
        if plain == FEATURES[:-1] or plain.startswith(_TAKEN):
            raise DefinitionError(
                f"The tag {ROUTE_TAG} of service {service} has a path that other routes answer: "
                f"{path}."
            )
        names = dict(_names(service, tags.get(NAMES_TAG, "")))
        return cls(service, f"{plain}/" if parameter else plain, parameter, names)

    @property
    def ranks(self) -> bool:
        """Whether it is a ranking of a pair, by POST; else the features of one, by GET."""
        return self.parameter is None

    def reply_names(self, keys: Sequence[str]) -> ReplyNames:
        """The names of its requests and replies; ``keys``: the service's join keys, leading first.

        Raises:
            DefinitionError: the tag names what there is not, or two things alike.
        """
        if len(keys) != 1 + self.ranks:
            wanted = "a pair of entities" if self.ranks else "one entity"
            raise DefinitionError(
                f"The route {self.path} is of {wanted}, and the service {self.service} has the "
                f"join keys {', '.join(keys) or '(none)'}."
            )
        own = ReplyNames.of(keys)
        places = {keys[0]: "entity", "features": "features"}
        if self.ranks:
            places |= {keys[1]: "item", f"{keys[1]}[]": "items"}
            places |= {name: name for name in ("item_features", "pair_features")}
        if unknown := [name for name in self.names if name not in places]:
            raise DefinitionError(
                f"The tag {NAMES_TAG} of service {self.service} names {unknown[0]}, which is none "
                f"of {', '.join(places)}.{did_you_mean(unknown[0], places)}"
            )
        given = {places[name]: said for name, said in self.names.items()}
        values = {place: getattr(own, place) for place in places.values()} | given
        names = ReplyNames(**values)
        if clash := names.clash():
            raise DefinitionError(
                f"In the replies of service {self.service} two things are called {clash}: "
                f"correct its tag {NAMES_TAG}."
            )
        return names


def leading_first(keys: Sequence[str], of_views: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """A service's join keys, of a pair the leading one of its rows first.

    Args:
        keys: All of them, in order of first use.
        of_views: Those of each view that the service reads.
    """
    composite = next((each for each in of_views if len(each) > 1), keys)
    return tuple(composite if set(composite) == set(keys) else keys)


def service_problems(
    services: Iterable[tuple[str, Mapping[str, str], Sequence[str] | None]],
) -> Iterator[str]:
    """What is wrong with services' tags, each with its name; routes that two declare.

    Args:
        services: Each service's name, tags and join keys (`leading_first`); None: not known.
    """
    paths: dict[str, str] = {}
    for service, tags, keys in services:
        try:
            route = DeclaredRoute.of(service, tags or {})
            if route is not None and keys is not None:
                route.reply_names(keys)
        except DefinitionError as error:
            yield error.message
            continue
        if route is not None and paths.setdefault(route.path, service) != service:
            yield f"The services {paths[route.path]} and {service} declare one route: {route.path}."


def _names(service: str, tag: str) -> Iterator[tuple[str, str]]:
    for part in filter(None, (part.strip() for part in tag.split(","))):
        name, equals, said = (piece.strip() for piece in part.partition("="))
        if not (name and equals and said):
            raise DefinitionError(
                f"The tag {NAMES_TAG} of service {service} must read like "
                f"'visitor_id=visitorId, features=visitorFeatures', not {tag!r}."
            )
        yield name, said
