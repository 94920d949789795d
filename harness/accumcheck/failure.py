"""A loop on which there is no verdict, in the same JSON form as a report. It needs no torch."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import accumcheck


@dataclass(frozen=True)
class Failure:
    """Why a loop, or the call, could not be judged: ``error`` in one sentence; ``findings`` where that is one, in their
    JSON form."""

    loop: str
    error: str
    findings: tuple[dict[str, object], ...] = ()

    def __str__(self) -> str:
        return f"accumcheck: {self.loop}: {self.error}"

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "loop": self.loop,
            "verdict": "error",
            "objectives": {},
            "findings": list(self.findings),
            "program": None,
            "counterexample": None,
            "matrix": None,
            "error": self.error,
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Of what a verdict depends on."""
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "not installed"
    return {"accumcheck": accumcheck.__version__, "torch": torch, "python": platform.python_version()}
