"""What worker processes import once, before they are forked."""

import importlib

from experiments import NAMES

for name in NAMES:
    importlib.import_module(f"experiments.{name}")
# Torch imports it with the first optimizer, which would cost every process a second.
importlib.import_module("torch._dynamo")
