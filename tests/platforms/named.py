"""The platform that ``SKEWLESS_TEST_PLATFORM`` names, for the tests' names too."""

import importlib
import os

from tests.platforms.description import Platform

NAMES = ("media", "media_text", "shop")
NAME = os.environ.get("SKEWLESS_TEST_PLATFORM", NAMES[0])


def platform(name: str) -> Platform:
    """The platform of a name: a module beside this one."""
    found: Platform = importlib.import_module(f"tests.platforms.{name}").PLATFORM
    return found


PLATFORM = platform(NAME)
