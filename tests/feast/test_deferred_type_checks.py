"""Feast's type checks wait for the first call, and are then typeguard's own."""

import json
import subprocess
import sys
from typing import Any

# Prints the code that checks each function of Feast's decorated classes; what waits is found by
# the function that waits for it. `import feast` first: the checks are there from the beginning.
TELL = """
import hashlib, json, sys, types
{first}
import feast
from typeguard import _decorators
import feast.feature_view, feast.entity, feast.feature_service, feast.data_source

def told(code):
    parts = [told(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    whole = (code.co_code, code.co_names, code.co_varnames, parts)
    return hashlib.sha256(repr(whole).encode()).hexdigest()

found = {{}}
for module in ("feast.entity", "feast.feature_service"):
    for owner in vars(sys.modules[module]).values():
        if not isinstance(owner, type) or owner.__module__ != module:
            continue
        for name, member in vars(owner).items():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if hasattr(function, "__wrapped__"):
                function = _decorators.typechecked(function.__wrapped__)
            if isinstance(function, types.FunctionType):
                found[f"{{module}}.{{owner.__name__}}.{{name}}"] = told(function.__code__)
print(json.dumps(found))
"""

COUNT = """
import json
import typeguard._decorators as decorators
instrument, calls = decorators.instrument, []

def counted(function):
    calls.append(function.__qualname__)
    return instrument(function)

decorators.instrument = counted
import extensions
import feast
imported = len(calls)
good = feast.Entity(name="u", join_keys=["u_id"], value_type=feast.ValueType.INT64)
again = feast.Entity(name="u", join_keys=["u_id"], value_type=feast.ValueType.INT64)
messages = []
for wrong in (
    lambda: feast.Entity(name=5),
    lambda: feast.Entity.from_proto("no proto"),
):
    try:
        wrong()
    except Exception as error:
        messages.append(f"{type(error).__module__}.{type(error).__name__}: {error}")
print(json.dumps({"imported": imported, "calls": calls, "messages": messages,
                  "equal": good.join_key == again.join_key}))
"""


def run(script: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_each_function_is_checked_from_its_first_call() -> None:
    found = run(COUNT)
    # What Feast calls itself while it is imported: it makes an entity of its own.
    assert found["imported"] < 5
    assert found["equal"]
    # Once each, however often they are called.
    assert len(found["calls"]) == len(set(found["calls"]))
    assert {"Entity.__init__", "Entity.from_proto"} <= set(found["calls"])
    of_name, of_proto = found["messages"]
    assert of_name == 'typeguard.TypeCheckError: argument "name" (int) is not an instance of str'
    assert of_proto.startswith('typeguard.TypeCheckError: argument "entity_proto" (str) is not an')


def test_the_checks_are_those_that_feast_has_by_itself() -> None:
    deferred = run(TELL.format(first="import extensions"))
    eager = run(TELL.format(first=""))
    assert len(eager) > 20
    assert deferred == eager
