"""A program as the lines of a training loop: those that are wrong, and the right ones in their place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from accumcheck.programs.rules import RIGHT, TABLES, Program

Objective = Literal["sample", "token"]
UNITS = {"sample": ("len(targets)", "samples"), "token": ("(targets != -100).sum()", "tokens")}


@dataclass(frozen=True)
class Line:
    """``mark`` is "-" for a wrong line, "+" for what to write instead, or a space; ``call`` is what the line calls."""

    mark: str
    code: str
    call: str = ""


def mended(program: Program) -> Program:
    """With the nearest rule that breaks no law in place of each that does."""
    for slot in RIGHT:
        while program.rule(slot).law:
            program = program.toward(slot)
    return program


def listing(program: Program, objective: Objective = "sample") -> list[Line]:
    """The loop in its usual order.

    >>> for line in listing(Program(scale="1/k")):
    ...     print(line.mark, line.code)
      for epoch in range(epochs): for i, batch in enumerate(loader): ...
    -     loss = loss_fn(outputs, targets) / k
    +     loss = loss_fn(outputs, targets) * len(targets) / samples_in_window
          loss.backward()
          if (i + 1) % k == 0 or i + 1 == len(loader):
              optimizer.step(); optimizer.zero_grad()
    """
    right = mended(program)
    lines: list[Line] = []

    def show(slot: str, depth: int, marks: str = "") -> None:
        for mark in marks or ("-+" if program.rule(slot).law else " "):
            rule = TABLES[slot][getattr(right if mark == "+" else program, slot)]
            call = "step" if slot == "reset" and "optimizer.step()" in rule.code else ""
            code = in_words(rule.code.removeprefix("loss.backward(); "), objective).split("\n")
            lines.extend(Line(mark, "    " * depth + each, call) for each in code)

    wrong = [slot for slot in ("clip", "schedule") if program.rule(slot).law]  # else they say nothing new
    show("visit", 0)
    show("scale", 1)
    lines.append(Line(" ", "    loss.backward()", "backward"))
    for slot in wrong:
        show(slot, 1, "-")
    show("step", 1)
    for slot in wrong[: len(wrong) - ("schedule" in wrong)]:
        show(slot, 2, "+")
    show("reset", 2)
    if "schedule" in wrong:
        show("schedule", 2, "+")
    return lines


def in_words(code: str, objective: Objective) -> str:
    """A rule's code with the names of what the loss averages over."""
    count, name = UNITS[objective]
    for end in ("in_window_on_all_ranks", "in_window", "since_step"):
        code = code.replace(f"units_{end}", f"{name}_{end}")
    return re.sub(r"\bunits\b", count, code)


def fix_of(program: Program, objective: Objective) -> str:
    """The right lines alone, one below the other."""
    return "\n".join(line.code.strip() for line in listing(program, objective) if line.mark == "+")
