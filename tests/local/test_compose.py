"""deploy/compose.yaml, as far as it can be checked without a container engine."""

from typing import Any

import pytest
import yaml

from tests.local.conftest import REPO

COMPOSE: dict[str, Any] = yaml.safe_load((REPO / "deploy" / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def test_three_servers() -> None:
    assert set(SERVICES) == {"postgres", "redis", "kafka"}


@pytest.mark.parametrize("name", SERVICES)
def test_each_is_pinned_checked_local_and_kept(name: str) -> None:
    service = SERVICES[name]
    image, _, tag = service["image"].partition(":")
    assert image in {"postgres", "valkey/valkey", "apache/kafka"}
    assert "." in tag, "pinned to a minor version"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert [volume.split(":")[0] for volume in service["volumes"]] == [name]
    assert name in COMPOSE["volumes"]
    # Compose wants strings: YAML's own `yes` and numbers would be refused or changed.
    assert all(isinstance(value, str) for value in service.get("environment", {}).values())
    assert all(isinstance(word, str) for word in service.get("command", []))


def test_no_password_is_written_down() -> None:
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith("${")
