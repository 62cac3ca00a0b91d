"""Serving, side by side: stock `feast serve` with Feast's Redis store, ours, and the limit.

`python -m benchmarks.serving [--quick] [--json FILE]`, from the repository. Both sides serve this
repository's features of the same entities; the limit is a constant reply from our HTTP server.
"near": workers hold the items' views (the repository's tag); "remote": the same server with
`near_megabytes=0`. Every pair of cells is measured on replies that were compared first; all sides
of a cell are measured in turn, five times, and the medians compared. The client is wrk where it is
installed (see `benchmarks.load`).
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

from benchmarks.load import Loads, client, in_turn, request
from benchmarks.report import Row, arguments, publish
from benchmarks.serving_data import Data, fill, stock_environment, stock_repository
from extensions import addresses
from extensions.local import postgres, valkey
from extensions.local.ports import free_port
from extensions.operations.database_setup import prepare_database

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
run(Settings(repo=Path.cwd(), port=int(sys.argv[1]), redis_deadline_ms=1000,
             near_megabytes=int(sys.argv[2])))
"""
USER, ITEMS = 7, 1_000
PATIENCE = 240.0  # seconds for imports on a busy machine


def main() -> None:
    args = arguments(__doc__ or "")
    # For each cell of each side, and in how many turns.
    seconds, rounds = (0.7, 1) if args.quick else (10.0, 5)
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
        ports = {name: free_port() for name in ("near", "remote", "stock", "constant")}
        for name, megabytes in (("near", "64"), ("remote", "0")):
            mine = [sys.executable, "-c", OURS, str(ports[name]), megabytes]
            stack.enter_context(_server(mine, REPO))
        stack.enter_context(_server([sys.executable, "-c", CONSTANT, str(ports["constant"])], REPO))
        feast = [str(Path(sys.executable).with_name("feast")), "serve", "-p", str(ports["stock"]),
                 "--no-access-log", "--max-requests", "0"]  # fmt: skip
        stack.enter_context(_server(feast, stock, stock_environment(stock)))
        _wait(ports["near"], "/ready")
        _wait(ports["remote"], "/ready")
        _wait(ports["stock"], "/health")
        _wait(ports["constant"], "/")
        rows = _measured(ports, seconds, rounds)
    publish("serving", rows, args)


def _measured(ports: dict[str, int], seconds: float, rounds: int) -> list[Row]:
    print(f"client: {client()}")
    how = seconds, rounds
    several = (1, 8, 32) if rounds > 1 else (1,)  # the quick form: one connection
    rows = _cells(ports, how, "one user, 4 features", several, ("remote",),
                  _user(USER), _by_feast([USER]))  # fmt: skip
    for n, connections in ((100, several), (500, several[:2]), (1_000, (1,))):
        asked = _by_feast([USER] * n, list(range(1, n + 1)))
        rows += _cells(ports, how, f"rank {n}", connections, ("remote", "near"), _rank(n), asked)
    columns = {f"{n}": (ports["near"], _rank(n, layout="columns")) for n in (100, 500, 1_000)}
    limit = {"limit": (ports["constant"], _user(USER))}
    flat = in_turn({**columns, **limit}, 1, *how)
    for length in columns:
        against = flat[length].median("p50") / flat["100"].median("p50")
        why = f"as columns; {against:.2f} times rank 100's"
        rows.append(_row(f"rank {length}, near, columns, 1 connection", "p50", flat[length], None,
                         flat["limit"], why=why))  # fmt: skip
    generic = _by_feast([USER] * 100, list(range(1, 101)))
    rows += _cells(ports, how, "/get-online-features, 100 items", several[:2],
                   ("remote", "near"), generic, generic)  # fmt: skip
    return rows


def _cells(
    ports: dict[str, int],
    how: tuple[float, int],
    name: str,
    connections: tuple[int, ...],
    sides: tuple[str, ...],
    ours: bytes,
    theirs: bytes,
) -> list[Row]:
    """A row per number of connections and way of ours, all against the same stock runs."""
    rows: list[Row] = []
    agree = {side: _equal(ports[side], ports["stock"], ours, theirs) for side in sides}
    targets = {side: (ports[side], ours) for side in sides}
    targets |= {"stock": (ports["stock"], theirs), "limit": (ports["constant"], _user(USER))}
    for number in connections:
        found = in_turn(targets, number, *how)
        for one in found.values():
            assert one.statuses == {"200"}, one.statuses
        for side in sides:
            where = f"{name}, {side}" if len(sides) > 1 else name
            where = f"{where}, {number} connection{'s' * (number > 1)}"
            three = found[side], found["stock"], found["limit"]
            rows.append(_row(where, "p50", *three, equal=agree[side]))
            rows += [_row(where, metric, *three) for metric in ("p99", "rate")]
    return rows


def _row(
    work: str,
    metric: str,
    ours: Loads,
    stock: Loads | None,
    limit: Loads,
    *,
    equal: bool | None = None,
    why: str | None = None,
) -> Row:
    return Row(
        work,
        metric,
        "requests/s" if metric == "rate" else "ms",
        "higher" if metric == "rate" else "lower",
        ours.median(metric),
        None if stock is None else stock.median(metric),
        limit.median(metric),
        runs=len(ours.runs),
        spread=ours.spread(metric),
        equal=equal,
        why=why,
    )


def _user(number: int) -> bytes:
    return request("GET", f"/v1/features/user/{number}")


def _rank(n: int, **more: Any) -> bytes:
    body = {
        "userId": USER,
        "itemIds": list(range(1, n + 1)),
        "context": {"requestHour": 21},
        **more,
    }
    return request("POST", "/v1/features/rank", body)


def _by_feast(users: list[int], items: list[int] | None = None) -> bytes:
    entities: dict[str, Any] = {"user_id": users}
    if items is not None:
        entities |= {"item_id": items, "request_hour": [21] * len(items)}
    service = "home_page" if items is None else "ranking"
    body = {"feature_service": service, "entities": entities}
    return request("POST", "/get-online-features", body)


def _equal(mine_at: int, stock_at: int, ours: bytes, theirs: bytes) -> bool:
    """Whether both sides serve the same values; Feast prints float32 as float64."""
    mine, other = _once(mine_at, ours), _once(stock_at, theirs)
    columns = dict(zip(other["metadata"]["feature_names"], other["results"], strict=True))
    if "metadata" in mine:
        held = dict(zip(mine["metadata"]["feature_names"], mine["results"], strict=True))
        return set(held) == set(columns) and all(
            _close(value, right)
            for name, column in held.items()
            for value, right in zip(column["values"], columns[name]["values"], strict=True)
        )
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
