"""Several repositories in one benchmark's process, which a product's process never has."""

import sys

from extensions.version_names import DEFINITIONS


def forget_definitions() -> None:
    """Let the next repository's definitions be imported, whichever were before."""
    for name in [each for each in sys.modules if each.partition(".")[0] == str(DEFINITIONS)]:
        del sys.modules[name]
