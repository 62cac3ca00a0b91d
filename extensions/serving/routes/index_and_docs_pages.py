"""Pages for people: the index at ``/`` and the documentation at ``/docs`` (Swagger UI).

Everything is served from here: the assets are those that the package fastapi-offline ships, so
that the page works without a connection to any other host.
"""

from collections.abc import Mapping
from html import escape
from importlib import resources

from extensions.serving.features.request_plan import Plan
from extensions.serving.http.content_encoding import accepts_gzip, compress_asset

INDEX, DOCS = "/", "/docs"
_HTML = b"text/html; charset=utf-8"
_SCRIPT = b"text/javascript; charset=utf-8"
_STYLE = b"text/css; charset=utf-8"
_ASSETS = {
    "/docs/swagger-ui.css": ("swagger-ui.css", _STYLE),
    "/docs/swagger-ui-bundle.js": ("swagger-ui-bundle.js", _SCRIPT),
}
START = "/docs/start.js"
PAGES = frozenset((INDEX, DOCS, START, *_ASSETS))

# Nothing of another host, no inline script; Swagger UI sets styles inline and draws data: images.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'"
)
_SAFE = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_CACHED = (b"cache-control", b"public, max-age=3600")
_VARY = (b"vary", b"Accept-Encoding")

# URLs are relative, so that the pages work behind a proxy that adds a prefix.
_DOCS_PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Skewless: API documentation</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript. The document itself: <a href="openapi.json">openapi.json</a>
</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START_SCRIPT = b"""SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  validatorUrl: null,
});
"""
_INDEX_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Skewless: feature server</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto;
  padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0;
  border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent) }}
</style>
</head>
<body>
<h1>Skewless feature server</h1>
<ul>
<li><a href="docs">Documentation</a> of all routes, with examples to run
  (<a href="openapi.json">openapi.json</a>; <a href="v1/openapi.json">/v1 alone</a>)</li>
<li><a href="health">Health</a> and <a href="ready">readiness</a></li>
<li><a href="metrics">Metrics</a> for Prometheus</li>
</ul>
<h2 id="services">Feature services</h2>
{services}
</body>
</html>
"""


class Pages:
    """The pages of one worker; assets are read and compressed once."""

    def __init__(self) -> None:
        self._fixed = {DOCS: (_DOCS_PAGE, _HTML), START: (_START_SCRIPT, _SCRIPT)}
        folder = resources.files("fastapi_offline") / "static"
        for path, (file, kind) in _ASSETS.items():
            self._fixed[path] = ((folder / file).read_bytes(), kind)
        self._compressed = {path: compress_asset(body) for path, (body, _) in self._fixed.items()}

    def page(
        self, path: str, headers: Mapping[bytes, bytes], plans: Mapping[str, Plan | str]
    ) -> tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]]:
        """One of `PAGES`.

        Args:
            path: the page's path.
            headers: the request's headers, names in lower case.
            plans: the feature services' plans by name, for the index.

        Returns:
            Content type, body, further headers.
        """
        if path == INDEX:
            return _HTML, index(plans), _SAFE
        body, kind = self._fixed[path]
        if accepts_gzip(headers):
            encoding = (b"content-encoding", b"gzip")
            return kind, self._compressed[path], (*_SAFE, _CACHED, _VARY, encoding)
        return kind, body, (*_SAFE, _CACHED, _VARY)


def index(plans: Mapping[str, Plan | str]) -> bytes:
    """The page at ``/``: links, and the feature services with their join keys."""
    rows = "".join(_service(name, plan) for name, plan in sorted(plans.items()))
    table = (
        "<table><thead><tr><th scope=col>Service<th scope=col>Join keys<th scope=col>Features"
        f"<th scope=col>Description</tr></thead><tbody>{rows}</tbody></table>"
    )
    services = table if rows else "<p>None is registered: run <code>feast apply</code>.</p>"
    return _INDEX_PAGE.format(services=services).encode()


def _service(name: str, plan: Plan | str) -> str:
    if isinstance(plan, str):
        return f"<tr><td>{escape(name)}<td><td><td>Not served by /v1: {escape(plan)}</tr>"
    count = len(plan.feature_names)
    description = plan.resource.description if plan.resource else ""
    keys = escape(", ".join(plan.join_keys))
    return f"<tr><td>{escape(name)}<td>{keys}<td>{count}<td>{escape(description or '')}</tr>"
