"""The OpenAPI documents and the pages for people: open to everybody, unless turned off."""

from extensions.serving.auth.authorization import Guard
from extensions.serving.http import openapi, responses
from extensions.serving.observability.registry_and_watermark_watcher import RegistryWatcher
from extensions.serving.routes.feast_app import FeastApp, Scope
from extensions.serving.routes.feature_routes import Response
from extensions.serving.routes.index_and_docs_pages import PAGES, Pages
from extensions.serving.settings import Settings


class Documentation:
    """Answers the routes of `pages` and of the OpenAPI documents, which follow the registry."""

    def __init__(
        self, settings: Settings, watcher: RegistryWatcher, guard: Guard, feast: FeastApp
    ) -> None:
        self._settings, self._watcher, self._guard, self._feast = settings, watcher, guard, feast
        self._pages = Pages()
        # The documents by path, and the number of the plans that they describe.
        self._documents: dict[str, bytes] = {}
        self._plan_number = -1

    def answer(self, scope: Scope, route: str) -> Response:
        """Answer a GET of a page or a document.

        Args:
            scope: the request's ASGI scope.
            route: its path, one of `PAGES` or of the documents.
        """
        if route not in PAGES:
            return Response(200, responses.JSON, self._document(route))
        plans = self._watcher.plans.by_service
        kind, body, headers = self._pages.page(route, dict(scope["headers"]), plans)
        return Response(200, kind, body, headers)

    def _document(self, route: str) -> bytes:
        """An OpenAPI document, written again when the registry has changed."""
        plans = self._watcher.plans
        if self._plan_number != plans.number:
            self._plan_number = plans.number
            self._documents.clear()
        if route not in self._documents:
            subject = openapi.Subject(
                self._settings,
                plans.by_service,
                self._guard.security(by_key=True),
                self._guard.security(by_key=False),
            )
            whole = route == "/openapi.json"
            document = self._feast.document(subject) if whole else openapi.document(subject)
            self._documents[route] = responses.dumps(document)
        return self._documents[route]
