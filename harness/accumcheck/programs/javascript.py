"""The rules as JavaScript, for pages that show what programs do.

Nothing is written twice: each rule is called once with a symbol for every number that it may look at, and what comes
back is the expression.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, ClassVar, cast

from accumcheck.programs.listing import mended
from accumcheck.programs.rules import RIGHT, TABLES, Gathered, Now, Part, Program, Shape, Step

SLOTS = ("visit", "step", "reset", "scale", "loss")
# What the rules' lines of code have in common, so that the page holds it once.
PHRASES = (
    "loss = loss_fn(outputs, targets)", " * units / units_in_window", " or i + 1 == len(loader)", "loss = summed_loss",
    "if (i + 1) % ", "count += 1; if count % ", "if count % ", " or count == total:", "optimizer.zero_grad()",
    "optimizer.step()", "for _ in range(", "samples_since_step", "samples_in_window", "len(targets)", "len(loader)",
    "; grad /= ", " / len(window)", ", counted", " or end", ", or last", " == 0", " unless k is 1",
    "  # at every micro-batch", "batches = cycle(loader); ", "\n1/count", "\nshare/", "loss.backward()", "epochs * ",
    "for i, batch in enumerate(loader): ...", "epoch", "batch", "units", "each /", "max(k - 1, 1)", "(b * k)",
    "k + 1", "window",
)  # fmt: skip
# What conditions have in common: "i+1==l" becomes "e".
SHARED = {"H": "Math.floor(k/2)", "e": "i+1==l", "z": "c+1==t", "I": "i+1", "C": "c+1"}


class Term:
    """A number, or a condition, that only JavaScript will know; ``level`` says how tightly the expression binds.

    >>> print(1 + Term("i") * 2, (1 + Term("i")) % 3 == 0)
    1+i*2 (1+i)%3==0
    """

    known: ClassVar[dict[str, bool]] = {}  # conditions, on the branch that is looked at
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: str, level: int = 9) -> None:
        self.text, self.level = text, level

    def __str__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        if self.text not in Term.known:
            raise Fork(self)
        return Term.known[self.text]

    def within(self, level: int) -> str:
        """In parentheses, unless it binds as tightly as this."""
        return self.text if self.level >= level else f"({self.text})"

    def __floordiv__(self, other: Any) -> Term:
        return self if str(other) == "1" else Term(f"Math.floor({joined(self, '/', other, 5)})")


class Fork(Exception):  # noqa: N818 - no error: Python asks for the truth of something
    """A rule has asked whether this is true."""

    def __init__(self, condition: Term) -> None:
        self.condition = condition


def joined(one: Any, sign: str, other: Any, level: int) -> Term:
    """Two terms or numbers with an operator between them; factors of 1 are left out."""
    terms = [each if isinstance(each, Term) else Term(json.dumps(each)) for each in (one, other)]
    if sign == "*" and "1" in map(str, terms):
        return terms[str(terms[0]) == "1"]
    return Term(terms[0].within(level) + sign + terms[1].within(level + 1), level)


OPERATORS = {
    "mul": ("*", 5), "mod": ("%", 5), "add": ("+", 4), "sub": ("-", 4),
    "eq": ("==", 3), "gt": (">", 3), "ge": (">=", 3), "lt": ("<", 3), "le": ("<=", 3),
}  # fmt: skip
for _name, (_sign, _level) in OPERATORS.items():
    setattr(Term, f"__{_name}__", lambda self, other, s=_sign, v=_level: joined(self, s, other, v))
    setattr(Term, f"__r{_name}__", lambda self, other, s=_sign, v=_level: joined(other, s, self, v))


def expression(rule: Callable[[], Any], known: dict[str, bool] | None = None) -> Term:
    """What a rule computes from terms, with ``||``, ``&&`` and ``?:`` where it asks for the truth of one."""
    Term.known = known or {}
    try:
        value = rule()
    except Fork as fork:
        asked = fork.condition
        yes, no = (expression(rule, {**(known or {}), asked.text: answer}) for answer in (True, False))
        if yes.text in (asked.text, "true"):
            return Term(f"{asked.within(1)}||{no.within(1)}", 1)
        if no.text in (asked.text, "false"):
            return Term(f"{asked.within(2)}&&{yes.within(2)}", 2)
        return Term(f"{asked.within(1)}?{yes}:{no}", 0)
    finally:
        Term.known = {}
    if isinstance(value, tuple):
        return Term(f"[{','.join(map(str, value))}]")
    return value if isinstance(value, Term) else Term(json.dumps(value))


def _expressions(slot: str, kind: type[Any], names: str, field: str) -> list[str]:
    """A field of each rule as an expression of the numbers that it may look at; empty where a rule has none."""
    shape = cast(Any, Shape)(*map(Term, "nbk"), Term("epochs"))
    seen = kind(*map(Term, names), shape)
    found = [getattr(rule, field) for rule in TABLES[slot].values()]
    return [str(expression(partial(rule, seen))) if rule else "" for rule in found]


def _line(slot: str, name: str) -> str:
    """A rule's name and code, and, of a wrong one, the right one, unless that is the first."""
    right = RIGHT["loss"] if slot == "loss" else getattr(mended(Program(**{slot: name})), slot)
    return f"{name}\t{TABLES[slot][name].code}" + f"\t{right if right != RIGHT[slot] else ''}" * (right != name)


def folded(rows: Sequence[tuple[str, ...]], numbers: Sequence[str]) -> list[tuple[str, ...]]:
    """Rows that are there for each of these numbers are made one row, with ``~`` for the number, behind the others.

    >>> folded([("1/2", "half"), ("1/5", "b/5"), ("1/7", "b/7")], ["5", "7"])
    [('1/2', 'half'), ('1/~', 'b/~')]
    """
    last = rf"\b{numbers[-1]}\b"
    signed = [tuple(re.sub(last, "~", cell) for cell in row) for row in rows if re.search(last, row[0])]
    each = {tuple(cell.replace("~", number) for cell in row) for row in signed for number in numbers}
    if not each <= set(rows):
        raise ValueError(f"some rules are there for {numbers[-1]} and not for {', '.join(numbers[:-1])}")
    return [row for row in rows if row not in each] + signed


def _function(names: str, values: Iterable[str], shared: dict[str, str], *, sparse: bool = False) -> str:
    """A JavaScript function of these names and N, the numbers, to all values, or to those that are not empty."""
    each = [f"...N.map(v=>{value.replace('~', 'v')})" if "~" in value else value for value in values]
    body = ",".join(f"{i}:{value}" if sparse else value for i, value in enumerate(each) if value)
    for short, long in shared.items():
        body = body.replace(f"({long})", short).replace(long, short)
    known = [f"{short}={long}" for short, long in shared.items()]
    return f"({','.join(['N', *names, *'nbk', *known])})=>" + (f"({{{body}}})" if sparse else f"[{body}]")


@lru_cache
def rules() -> str:
    """All rules as a JavaScript object; their text is packed, see ``PHRASES``."""
    part = "muMUwjl"
    numbers = [name for name in TABLES["step"] if name.isdecimal()]
    table: dict[str, list[tuple[str, ...]]] = {slot: [(_line(slot, name),) for name in TABLES[slot]] for slot in SLOTS}
    fields: tuple[tuple[str, type[Any], str, str], ...] = (
        ("step", Now, "icsqlt", "gate"),
        ("scale", Part, part, "weight"),
        ("scale", Gathered, "muw", "divide"),
        ("scale", Part, part, "each"),
    )
    for slot, kind, names, field in fields:
        found = _expressions(slot, kind, names, field)
        table[slot] = [(*row, text) for row, text in zip(table[slot], found, strict=True)]
    table = {slot: folded(rows, numbers) for slot, rows in table.items()}
    text = "\n\n".join("\n".join(row[0] for row in rows) for rows in table.values())
    symbols = [chr(c) for c in range(33, 127) if chr(c) not in text + "".join(PHRASES) + "`$\\<"]
    for symbol, phrase in zip(symbols, PHRASES, strict=False):
        text = text.replace(phrase, symbol)
    data = {
        "symbols": "".join(symbols[: len(PHRASES)]),
        "phrases": "|".join(PHRASES[: len(symbols)]),
        "late": [name for name, rule in TABLES["step"].items() if isinstance(rule, Step) and rule.late],
        "numbers": list(map(int, numbers)),
    }
    _, gate = zip(*table["step"], strict=True)
    _, weight, divide, each = zip(*table["scale"], strict=True)
    functions = {
        "gate": _function("icsqlt", gate, SHARED),
        "weight": _function(part, weight, {}),
        "divide": _function("muw", divide, {}, sparse=True),
        "each": _function(part, each, {}, sparse=True),
    }
    return f"{literal(data)[:-1]},text:`{text}`" + "".join(f",{name}:{code}" for name, code in functions.items()) + "}"


def literal(value: Any) -> str:
    """A value as JavaScript has it, without the quotation marks of names."""
    return re.sub(r'"(\w+)":', r"\1:", json.dumps(value, ensure_ascii=False, separators=(",", ":")))
