"""Lets frameworks import torchvision's build for CUDA where torch has no CUDA; their loops use none of it."""

from __future__ import annotations

import importlib

import torch

OPERATORS = ("nms", "qnms")  # which torchvision describes without asking whether its library could be loaded


def name_operators() -> None:
    """Make torchvision importable, if it is installed: name the operators that it misses."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in OPERATORS:
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
