"""What a window's rows are worth for a feature: how many of them are independent of each other."""

import psycopg

from monitoring.baselines.feature_baseline import FeatureBaseline
from monitoring.baselines.stratified_baselines import REQUEST
from monitoring.checks.serving_log_window import Window, entities_in, requests_in
from monitoring.statistics.repeated_entities import independent_share
from monitoring.statistics.shared_by_requests import LiveRequests, independent_share_of_requests

Keys = tuple[str, ...]


class RowWorth:
    """The worth of one window's rows, by feature; what several features ask is counted once."""

    def __init__(self, conn: psycopg.Connection, window: Window) -> None:
        self._conn, self._window = conn, window
        self._entities: dict[tuple[str, Keys], list[int] | None] = {}
        self._requests: dict[tuple[Keys, Keys], LiveRequests] = {}

    def of(self, feature: FeatureBaseline) -> float | None:
        """What each row is worth, at most 1; None where neither entities nor requests are known.

        A value can depend on each entity that it is computed from, on several of them together,
        and on its request. It is worth what it is for that of which the fewest are independent.
        """
        content = feature.content
        shares = []
        for held in (content.get("entities"), *content.get("parts", ())):
            if held is None or held["counts"] is None:
                continue
            live = self._by_entity(feature.feature.view, tuple(held["keys"]))
            if live is not None:
                shares.append(independent_share(live, held["counts"]))
        requests = content.get("requests")
        # The mixture of the strata is the window's own: their field explains nothing any more.
        by = (content.get("strata") or {}).get("by")
        if requests is not None and [f"{REQUEST}:{each}" for each in requests["fields"]] != [by]:
            shares.append(
                independent_share_of_requests(
                    self._by_request(tuple(requests["fields"]), tuple(requests["keys"])),
                    requests,
                    feature.rows,
                )
            )
        return min(shares, default=None)

    def _by_entity(self, view: str, keys: Keys) -> list[int] | None:
        if (view, keys) not in self._entities:
            self._entities[view, keys] = entities_in(self._conn, self._window, view, keys)
        return self._entities[view, keys]

    def _by_request(self, fields: Keys, keys: Keys) -> LiveRequests:
        if (fields, keys) not in self._requests:
            self._requests[fields, keys] = requests_in(self._conn, self._window, fields, keys)
        return self._requests[fields, keys]
