"""A training script around one loop: ``python script.py MODULE:FUNCTION PROBLEM``, for ``accumcheck run``."""

import argparse
import importlib

from accumcheck.corpus.problems import PROBLEMS
from accumcheck.task import Sizes
from accumcheck.training.problem import Case


def main() -> None:
    """Train a small model with the loop that the arguments name."""
    parser = argparse.ArgumentParser(description="Train a small model with a loop of the catalogue.")
    parser.add_argument("loop", help="MODULE:FUNCTION below accumcheck.corpus")
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--gradient-accumulation-steps", type=int, default=4)
    options = parser.parse_args()
    module, _, function = options.loop.partition(":")
    train = getattr(importlib.import_module(f"accumcheck.corpus.{module}"), function)
    sizes = Sizes(27, 2, options.gradient_accumulation_steps, 3)  # 14 micro-batches, the last one short; a tail of two
    train(Case(PROBLEMS[options.problem], sizes, "sgd", "float32").task())


if __name__ == "__main__":
    main()
