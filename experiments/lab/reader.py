"""``python reader.py VERSIONS NAME ...``: accumcheck frameworks NAME ... --json, and to VERSIONS what it has imported.

Runs in an environment of its own, so it needs nothing but the standard library and accumcheck.
"""

from __future__ import annotations

import json
import runpy
import sys
from importlib import metadata
from pathlib import Path


def imported() -> dict[str, str]:
    """The version of every distribution whose modules are loaded, from the folder that they were loaded from."""
    versions = {}
    owners = metadata.packages_distributions()
    for name, module in list(sys.modules.items()):
        if "." in name or not getattr(module, "__file__", None):
            continue
        place = Path(str(module.__file__)).parent
        folder = place.parent if hasattr(module, "__path__") else place
        for owner in owners.get(name, ()):
            found = next(iter(metadata.distributions(name=owner, path=[str(folder)])), None)
            if found:
                versions[owner.lower().replace("_", "-")] = found.version.partition("+")[0]
    return versions


if __name__ == "__main__":
    _, where, *names = sys.argv
    sys.argv = ["accumcheck", "frameworks", *names, "--json"]
    try:
        runpy.run_module("accumcheck", run_name="__main__", alter_sys=True)
    finally:
        Path(where).write_text(json.dumps(imported()))
