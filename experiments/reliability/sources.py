"""The source of loops, changed and compiled again: rewrites that mean nothing, and edits like slips of the pen.

Both change a tree of Python's ``ast``. An edit is one place in the source and what is done there; a rewrite is done to
the whole of it.
"""

from __future__ import annotations

import ast
import copy
import inspect
import linecache
import random
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from accumcheck.corpus.recipes import RECIPES, as_loop
from accumcheck.task import Loop

OPERATORS: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult, ast.FloorDiv),
    ast.FloorDiv: (ast.Div, ast.Mod),
    ast.Mod: (ast.FloorDiv,),
}
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq, ast.GtE),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
}
COUNTS = ("accumulation_steps", "micro_batch_size", "epochs")
Body = list[ast.stmt]


def tree_of(loop: Callable[..., Any]) -> ast.FunctionDef:
    """The definition of a loop or recipe, without decorators and docstring."""
    return copy.deepcopy(_tree_of(loop))


@lru_cache(maxsize=256)
def _tree_of(loop: Callable[..., Any]) -> ast.FunctionDef:
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(loop))).body
    assert isinstance(found, ast.FunctionDef)
    found.decorator_list = []
    if ast.get_docstring(found):
        found.body = found.body[1:]
    return found


def compiled(tree: ast.FunctionDef, original: Callable[..., Any], label: str) -> Loop:
    """A tree as a loop that sees what the original's module has; its lines can be shown."""
    text = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
    file = f"<{label}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    names = dict(inspect.getmodule(original).__dict__)
    exec(compile(text, file, "exec"), names)
    function = names[tree.name]
    loop: Loop = as_loop(function) if original in RECIPES else function
    return loop


# Edits


@dataclass(frozen=True)
class Edit:
    """What is done at one place: ``place`` counts the places at which this kind of edit can be made."""

    kind: str
    place: int

    def __str__(self) -> str:
        return f"{self.kind} {self.place}"


def _bodies(tree: ast.AST) -> Iterator[tuple[ast.AST, Body]]:
    """All lists of statements, with what holds them."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
                yield node, body


def _places(tree: ast.FunctionDef) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every edit that can be made to a tree: its kind, and what makes it in place."""
    yield from _of_statements(tree)
    for node in ast.walk(tree):
        yield from _of_operators(node)
    yield from _of_counts(tree)


def _of_statements(tree: ast.FunctionDef) -> Iterator[tuple[str, Callable[[], object]]]:
    bodies = list(_bodies(tree))
    for _, body in bodies:
        for i, statement in enumerate(body):
            yield "delete", partial(body.__setitem__, i, ast.Pass())
            yield "twice", partial(body.insert, i, copy.deepcopy(statement))
            if i + 1 < len(body):
                yield "swap", partial(body.__setitem__, slice(i, i + 2), [body[i + 1], statement])
            for j, last in ((i + 1, False), (i - 1, True)):
                if 0 <= j < len(body) and (inside := getattr(body[j], "body", None)):
                    yield "in", partial(_into, body, i, inside, last)
    for holder, body in bodies:
        outer = next((each for _, each in bodies if holder in each), None)
        if outer is not None:
            for i in range(len(body)):
                for after in (0, 1):
                    yield "out", partial(_out, body, i, outer, holder, after)


def _of_operators(node: ast.AST) -> Iterator[tuple[str, Callable[[], object]]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        for number in _numbers(node.value):
            yield "constant", partial(setattr, node, "value", number)
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        for operator in OPERATORS.get(type(node.op), ()):
            yield "operator", partial(setattr, node, "op", operator())
    elif isinstance(node, ast.Compare):
        for comparison in COMPARISONS.get(type(node.ops[0]), ()):
            yield "comparison", partial(node.ops.__setitem__, 0, comparison())
    elif isinstance(node, ast.BoolOp):
        yield "and, or", partial(setattr, node, "op", ast.And() if isinstance(node.op, ast.Or) else ast.Or())
        for value in node.values:
            yield "condition", partial(node.values.remove, value)


def _of_counts(tree: ast.FunctionDef) -> Iterator[tuple[str, Callable[[], object]]]:
    for parent, name, place, expression in _expressions(tree):
        if _is_count(expression):
            for less_or_more in (ast.Sub(), ast.Add()):
                new = ast.BinOp(copy.deepcopy(expression), less_or_more, ast.Constant(1))
                yield "count", partial(_replace, parent, name, place, new)
        elif isinstance(expression, ast.BinOp) and not isinstance(expression.op, ast.Mod):
            yield "operand", partial(_replace, parent, name, place, expression.left)


def _is_count(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
        return (node.attr if isinstance(node, ast.Attribute) else node.id) in COUNTS
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len"


def _numbers(value: float) -> list[float]:
    if isinstance(value, bool):
        return [not value]
    return [value * 2, value / 2] if isinstance(value, float) else [value + 1, value - 1]


def _into(body: Body, i: int, inside: Body, last: bool) -> None:
    inside.insert(len(inside) if last else 0, body.pop(i))


def _out(body: Body, i: int, outer: Body, holder: ast.AST, after: int) -> None:
    statement = body.pop(i)
    if not body:
        body.append(ast.Pass())
    place = next(j for j, each in enumerate(outer) if each is holder)
    outer.insert(place + after, statement)


def _expressions(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.expr]]:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            for place, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(node, ast.expr):
                    yield parent, name, place, node


def _replace(parent: ast.AST, name: str, place: int | None, new: ast.expr) -> None:
    if place is None:
        setattr(parent, name, new)
    else:
        getattr(parent, name)[place] = new


def edits_of(loop: Callable[..., Any]) -> list[Edit]:
    """Every edit of a loop, but those that leave its text as it is or make one that is there already."""
    seen = {ast.unparse(tree_of(loop))}
    found = []
    counts: dict[str, int] = {}
    for kind, _ in list(_places(tree_of(loop))):
        edit = Edit(kind, counts.get(kind, 0))
        counts[kind] = edit.place + 1
        text = ast.unparse(ast.fix_missing_locations(edited(tree_of(loop), edit)))
        if text not in seen:
            seen.add(text)
            found.append(edit)
    return found


def edited(tree: ast.FunctionDef, edit: Edit) -> ast.FunctionDef:
    """The tree with an edit, made in place."""
    make = [make for kind, make in _places(tree) if kind == edit.kind]
    make[edit.place]()
    return tree


# Rewrites


class _Renamed(ast.NodeTransformer):
    """Local variables have other names."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        if node.id in self.names:
            node.id = f"{node.id}_here"
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        if node.arg in self.names:
            node.arg = f"{node.arg}_here"
        return node


def _rename(tree: ast.FunctionDef, draw: random.Random) -> None:
    stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    inner = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in [*_arguments(f), f.name]}
    _Renamed(stored - inner).visit(tree)


def _arguments(function: ast.FunctionDef) -> list[str]:
    return [each.arg for each in [*function.args.args, *function.args.kwonlyargs]]


class _Rewritten(ast.NodeTransformer):
    """Some expressions and statements are written in another way that does the same."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    def _turn(self) -> bool:
        return self.draw.random() < 0.5

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "zero_grad" and self._turn():
            node.keywords = [ast.keyword("set_to_none", ast.Constant(self._turn()))]
        elif name == "range" and len(node.args) == 1 and self._turn():
            node.args = [ast.Constant(0), *node.args]
        elif name == "enumerate" and len(node.args) == 1 and not node.keywords and self._turn():
            node.keywords = [ast.keyword("start", ast.Constant(0))]
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        self.generic_visit(node)
        if not self._turn():
            return node
        left = copy.deepcopy(node.target)
        left.ctx = ast.Load()
        return ast.Assign([node.target], ast.BinOp(left, node.op, node.value))

    def visit_If(self, node: ast.If) -> ast.stmt:
        self.generic_visit(node)
        if self._turn():
            return node
        return ast.If(ast.UnaryOp(ast.Not(), node.test), node.orelse or [ast.Pass()], node.body)

    def visit_For(self, node: ast.For) -> ast.stmt | Body:
        self.generic_visit(node)
        if self._turn() or node.orelse:
            return node
        name = f"source_{self.draw.randrange(10**6)}"
        first = ast.parse(f"{name} = iter(())").body[0]
        assert isinstance(first, ast.Assign)
        assert isinstance(first.value, ast.Call)
        first.value.args = [node.iter]
        (loop,) = ast.parse(
            f"while True:\n    try:\n        x = next({name})\n    except StopIteration:\n        break"
        ).body
        assert isinstance(loop, ast.While)
        assert isinstance(loop.body[0], ast.Try)
        drawn = loop.body[0].body[0]
        assert isinstance(drawn, ast.Assign)
        drawn.targets = [node.target]
        loop.body += node.body
        return [first, loop]

    def visit_Expr(self, node: ast.Expr) -> ast.stmt | Body:
        self.generic_visit(node)
        return [node, ast.parse("assert True").body[0]] if self.draw.random() < 0.1 else node


def rewritten(tree: ast.FunctionDef, draw: random.Random) -> ast.FunctionDef:
    """The tree, written in another way that does the same; made in place."""
    if draw.random() < 0.5:
        _rename(tree, draw)
    _Rewritten(draw).generic_visit(tree)
    return tree
