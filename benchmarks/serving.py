"""Serving, side by side: stock `feast serve` with Feast's Redis store, ours, and the limit.

`python -m benchmarks.serving [--quick] [--json FILE]`, from the repository. Both sides serve this
repository's features of the same entities; the limit is a constant reply from our HTTP server.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.load import Load, measure, request
from benchmarks.report import Row, arguments, publish
from benchmarks.serving_data import Data, fill, stock_environment, stock_repository
from extensions import addresses
from extensions.local import postgres, valkey
from extensions.local.ports import free_port
from extensions.operations.prepare import prepare_database

REPO = Path.cwd()
CONSTANT = """
import sys, uvicorn
body = b'{"userId":1,"features":{},"latencyMs":0.0}'
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await receive()
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False,
            log_level="error", lifespan="off")
"""
OURS = """
import sys
from pathlib import Path
from extensions.serving import Settings, run
run(Settings(repo=Path.cwd(), port=int(sys.argv[1]), redis_deadline_ms=1000))
"""
USER, ITEMS = 7, 1_000
PATIENCE = 240.0  # seconds for imports on a busy machine


def main() -> None:
    args = arguments(__doc__ or "")
    seconds = 0.7 if args.quick else 10.0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = postgres.start(folder / "postgres", durable=False)
        stack.callback(database.stop)
        cache = valkey.start(folder / "valkey", durable=False)
        stack.callback(cache.stop)
        os.environ[addresses.POSTGRES_VARIABLE] = database.url
        os.environ[addresses.REDIS_VARIABLE] = cache.url
        prepare_database(database.url, REPO)
        stock_url = cache.url.rpartition("/")[0] + "/1"
        stock = stock_repository(REPO, folder / "stock", database.url, stock_url)
        data = Data(users=50, items=ITEMS)
        fill(REPO, stock, data)
        ports = {name: free_port() for name in ("ours", "stock", "constant")}
        stack.enter_context(_server([sys.executable, "-c", OURS, str(ports["ours"])], REPO))
        stack.enter_context(_server([sys.executable, "-c", CONSTANT, str(ports["constant"])], REPO))
        feast = [str(Path(sys.executable).with_name("feast")), "serve", "-p", str(ports["stock"]),
                 "--no-access-log", "--max-requests", "0"]  # fmt: skip
        stack.enter_context(_server(feast, stock, stock_environment(stock)))
        _wait(ports["ours"], "/ready")
        _wait(ports["stock"], "/health")
        _wait(ports["constant"], "/")
        rows = _measured(ports, seconds)
    publish("serving", rows, args)


def _measured(ports: dict[str, int], seconds: float) -> list[Row]:
    rows: list[Row] = []
    work: list[tuple[str, bytes, bytes]] = [
        ("one user, 4 features", request("GET", f"/v1/features/user/{USER}"), _by_feast([USER])),
        *(
            (f"rank {n}", _rank(n), _by_feast([USER] * n, list(range(1, n + 1))))
            for n in (100, 500, 1_000)
        ),
    ]
    for name, ours, theirs in work:
        agree = _equal(ports, ours, theirs)
        for connections in (1, 8, 32):
            if connections > 1 and name == "rank 1000":
                continue
            if connections > 8 and name == "rank 500":
                continue
            mine = measure(ports["ours"], connections, seconds, ours)
            other = measure(ports["stock"], connections, seconds, theirs)
            limit = measure(ports["constant"], connections, seconds, ours)
            for one in (mine, other):
                assert set(one.statuses) == {"200"}, one.statuses
            rows += _rows(f"{name}, {connections} connections", mine, other, limit, agree)
    generic = _by_feast([USER] * 100, list(range(1, 101)))
    for connections in (1, 8):
        mine = measure(ports["ours"], connections, seconds, generic)
        other = measure(ports["stock"], connections, seconds, generic)
        where = f"/get-online-features, 100 items, {connections} connections"
        rows += _rows(where, mine, other, None, None)
    return rows


def _rows(work: str, ours: Load, stock: Load, limit: Load | None, equal: bool | None) -> list[Row]:
    return [
        Row(
            work,
            "p50",
            "ms",
            "lower",
            ours.p50,
            stock.p50,
            limit.p50 if limit else None,
            equal=equal,
        ),
        Row(work, "p99", "ms", "lower", ours.p99, stock.p99, limit.p99 if limit else None),
        Row(
            work,
            "rate",
            "requests/s",
            "higher",
            ours.rate,
            stock.rate,
            limit.rate if limit else None,
        ),
    ]


def _rank(n: int) -> bytes:
    body = {"userId": USER, "itemIds": list(range(1, n + 1)), "context": {"requestHour": 21}}
    return request("POST", "/v1/features/rank", body)


def _by_feast(users: list[int], items: list[int] | None = None) -> bytes:
    entities: dict[str, Any] = {"user_id": users}
    if items is not None:
        entities |= {"item_id": items, "request_hour": [21] * len(items)}
    service = "home_page" if items is None else "ranking"
    body = {"feature_service": service, "entities": entities}
    return request("POST", "/get-online-features", body)


def _equal(ports: dict[str, int], ours: bytes, theirs: bytes) -> bool:
    """Whether both sides serve the same values; Feast prints float32 as float64."""
    mine, other = _once(ports["ours"], ours), _once(ports["stock"], theirs)
    columns = dict(zip(other["metadata"]["feature_names"], other["results"], strict=True))
    listed = mine.get("items") or [{"itemFeatures": {}, "interactionFeatures": {}}]
    user = mine.get("userFeatures") or mine["features"]
    for i, item in enumerate(listed):
        for name, value in {**user, **item["itemFeatures"], **item["interactionFeatures"]}.items():
            if not _close(value, columns[name]["values"][i]):
                return False
    return True


def _close(left: Any, right: Any) -> bool:
    if right is None:  # stock has no defaults: a missing entity is null there
        return True
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_close, left, right))
    if isinstance(left, (int, float)) and not isinstance(left, bool):
        return abs(float(left) - float(right)) <= 1e-6 * max(1.0, abs(float(left)))
    return bool(left == right)


def _once(port: int, sent: bytes) -> Any:
    head, body = sent.split(b"\r\n\r\n", 1)
    method, path, _ = head.split(b"\r\n")[0].decode().split()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=body or None, method=method,
        headers={"content-type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return json.load(answer)


@contextmanager
def _server(
    argv: list[str], folder: Path, environment: dict[str, str] | None = None
) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            argv, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode()[-3000:])
            raise
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait(port: int, path: str) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return
        except OSError:
            pass
        else:
            return
        time.sleep(0.1)
    raise TimeoutError(f"Nothing answers on {port}.")


if __name__ == "__main__":
    main()
