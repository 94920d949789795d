"""Frameworks that do not agree with the others on what is installed beside them: each in an environment of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

from accumcheck.adapters import ADAPTERS

from experiments.lab.environments import UnavailableError, prepare, read
from experiments.lab.runner import Row

PINS = {
    "trl": (
        "trl==1.16.0", "datasets==5.2.0", "pyarrow==26.0.1", "xxhash==4.1.0", "dill==0.4.1", "multiprocess==0.70.19",
    ),
    "litgpt": ("litgpt==0.5.13", "jsonargparse==4.41.0", "docstring_parser==0.18.0", "typeshed_client==2.15.0"),
    "deepspeed": (
        "deepspeed==0.19.8", "hjson==3.1.0", "ninja==1.13.2", "py-cpuinfo==9.0.0", "msgpack==1.2.4", "einops==0.8.2",
    ),
    "mmengine": (
        "mmengine==0.10.7", "addict==2.4.0", "yapf==0.43.0", "termcolor==3.3.0", "opencv-python-headless==5.0.0.93",
    ),
    "speechbrain": (
        "speechbrain==1.1.2", "hyperpyyaml==1.2.3", "ruamel.yaml==0.19.1", "sentencepiece==0.2.3", "torchaudio==2.11.0",
    ),
    # It asks for an older torch, and trains with this one.
    "mosaicml": (
        "mosaicml==0.32.1", "torchvision==0.28.0", "coolname==5.0.0", "importlib_metadata==8.9.0", "zipp==4.1.2",
        "torch-optimizer==0.3.0", "mosaicml-cli==0.7.5", "backoff==2.2.1", "gql==3.5.3", "graphql-core==3.2.14",
        "arrow==1.4.0", "argcomplete==3.7.2", "validators==0.36.0", "questionary==2.0.1", "websockets==17.4",
        "protobuf==7.36.2", "ruamel.yaml==0.19.1", "termcolor==3.3.0", "py-cpuinfo==9.0.0",
    ),
}  # fmt: skip
BUILT = ("deepspeed",)  # there is no wheel
# Whose trainer is one of the matrix; its script is in the folder beside this file.
SCRIPTS = {"sentence_transformers_pairs.py": ("sentence-transformers==6.2.0", *PINS["trl"][1:])}


def packages() -> list[str]:
    """Those with adapters that are not installed here."""
    return [name for name in PINS if any(a.package == name and not a.version for a in ADAPTERS)]


def rows_of(package: str, root: str) -> dict[str, Row]:
    """What ``accumcheck frameworks --json`` says there of each adapter; UnavailableError with the reason if it cannot.

    Without ``root`` the environment is thrown away.
    """
    names = [a.id for a in ADAPTERS if a.package == package]
    pins = PINS[package]
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepare(package, pins, Path(root or scratch), built=[name for name in BUILT if name == package])
        rows, reasons, _ = read(folder, names, pins)
    if reasons:
        raise UnavailableError("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
    return rows
