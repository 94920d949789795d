"""What loops do with micro-batches: a slot for each decision, a table of rules for each slot, one of them right.

A choice of one rule for each slot is a ``Program``. A rule is a line of code as people write it, a function of what the
loop knows when it reaches that line, and the gravest law that it breaks. ``toward`` names the rule of the same slot
that keeps this law; following it ends at a rule that breaks none. A new bug is a new row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from accumcheck.task import Sizes

Ratio = tuple[int, int]


class Shape(NamedTuple):
    """The sizes of a run: n samples, b of them in a rank's micro-batch, k accumulation steps, epochs, ranks."""

    n: int
    b: int
    k: int
    epochs: int
    ranks: int = 1

    @classmethod
    def of(cls, sizes: Sizes) -> Shape:
        """From sizes; their micro-batches are those of all ranks where there are several."""
        ranks = getattr(sizes, "ranks", 1)
        return cls(sizes.samples, sizes.micro_batch_size // ranks, sizes.accumulation_steps, sizes.epochs, ranks)

    @property
    def batch(self) -> int:
        """Samples in a micro-batch of all ranks."""
        return self.b * self.ranks

    @property
    def big(self) -> int:
        """The effective batch size N."""
        return self.b * self.k * self.ranks

    @property
    def length(self) -> int:
        """Micro-batches in an epoch."""
        return -(-self.n // self.batch)

    @property
    def windows(self) -> int:
        """Windows of all epochs, which is how many optimizer steps full-batch training makes."""
        return self.epochs * -(-self.length // self.k)

    @property
    def passes(self) -> int:
        """How often a loop that counts its steps goes through the data at most; one that makes none never ends."""
        return 2 * self.epochs * -(-self.k // self.length)

    def full_batch(self) -> Shape:
        """The same windows on one rank without accumulation."""
        return Shape(self.n, self.big, 1, self.epochs)


class Now(NamedTuple):
    """What a condition may look at, right after (or before) the backward pass of a micro-batch."""

    i: int  # its place in the epoch
    number: int  # in the whole run, from 0
    since: int  # micro-batches since the last step, this one included
    samples: int  # in these
    length: int  # micro-batches in an epoch
    total: int  # in the whole run
    shape: Shape


class Part(NamedTuple):
    """What the weight of a micro-batch's loss may depend on; units are samples, or unmasked tokens."""

    samples: int
    units: int
    window_samples: int  # of the window that the micro-batch belongs to
    window_units: int
    window_count: int  # its micro-batches
    place: int  # the micro-batch's place in it
    length: int  # micro-batches in an epoch
    shape: Shape


class Gathered(NamedTuple):
    """What a step may divide by: all that was seen since the step before."""

    samples: int
    units: int
    micro_batches: int
    shape: Shape


@dataclass(frozen=True)
class Rule:
    """``law`` is the gravest that it breaks, ``code`` as people write it, ``toward`` the rule that keeps this law."""

    name: str
    code: str
    law: str = ""
    toward: str = ""


@dataclass(frozen=True)
class Step(Rule):
    """When the optimizer steps; ``late`` means that it is asked before the micro-batch's backward pass."""

    gate: Callable[[Now], bool] = lambda _: True
    late: bool = False
    rare: bool = False  # tried with common rules only


@dataclass(frozen=True)
class Scale(Rule):
    """What a micro-batch's mean loss is multiplied with, what the gradient is multiplied with at the step, and what
    at every micro-batch; each as numerator and denominator."""

    weight: Callable[[Part], Ratio] = lambda _: (1, 1)
    divide: Callable[[Gathered], Ratio] | None = None
    each: Callable[[Part], Ratio] | None = None


RIGHT = {
    "visit": "every",
    "step": "window or end",
    "reset": "after step",
    "scale": "share",
    "clip": "none",
    "schedule": "step",
    "ranks": "global",
    "loss": "mean",
}
SLOTS = tuple(RIGHT)


@dataclass(frozen=True)
class Program:
    """One rule for each slot, by name.

    >>> program = Program(step="every")
    >>> [rule.name for rule in program.wrong], program.right("step") == Program()
    (['every'], True)
    """

    visit: str = RIGHT["visit"]
    step: str = RIGHT["step"]
    reset: str = RIGHT["reset"]
    scale: str = RIGHT["scale"]
    clip: str = RIGHT["clip"]
    schedule: str = RIGHT["schedule"]
    ranks: str = RIGHT["ranks"]
    loss: str = RIGHT["loss"]

    def __str__(self) -> str:
        return ", ".join(f"{slot}: {self.rule(slot).code}" for slot in SLOTS if getattr(self, slot) != RIGHT[slot])

    def rule(self, slot: str) -> Rule:
        """The rule in a slot."""
        return TABLES[slot][getattr(self, slot)]

    @property
    def wrong(self) -> tuple[Rule, ...]:
        """Its rules that break a law."""
        return tuple(rule for slot in SLOTS if (rule := self.rule(slot)).law)

    @property
    def cost(self) -> tuple[int, int, int]:
        """Smaller is likelier: fewer wrong rules, then fewer unusual ones, then those that stand higher up."""
        wrong = unusual = places = 0
        for slot in SLOTS:
            breaks, differs, place = COSTS[slot][getattr(self, slot)]
            wrong, unusual, places = wrong + breaks, unusual + differs, places + place
        return wrong, unusual, places

    def right(self, *slots: str) -> Program:
        """With the right rule in these slots."""
        return replace(self, **{slot: RIGHT[slot] for slot in slots})

    def only(self, slot: str) -> Program:
        """With the right rule in all other slots; what it averages over stays."""
        return replace(self.right(*SLOTS), **{slot: getattr(self, slot), "loss": self.loss})

    def toward(self, slot: str) -> Program:
        """With the first law kept that the rule of this slot breaks."""
        return replace(self, **{slot: self.rule(slot).toward or RIGHT[slot]})

    def as_dict(self) -> dict[str, str]:
        """The code of each slot's rule."""
        return {slot: self.rule(slot).code for slot in SLOTS}


def _table(rules: Iterable[Rule]) -> dict[str, Rule]:
    return {rule.name: rule for rule in rules}


STREAM = "batches = cycle(loader)"
VISITS = (
    Rule("every", "for epoch in range(epochs): for i, batch in enumerate(loader): ..."),
    Rule("first epoch", "for i, batch in enumerate(loader): ...  # one epoch"),
    Rule("whole windows", "for _ in range(len(loader) // k): for _ in range(k): next(batches)", "dropped-tail"),
    Rule("whole windows of samples", "for _ in range(len(dataset) // (b * k)): ...", "dropped-tail"),
    Rule("skips short", "if len(targets) < b: continue", "dropped-tail"),
    Rule("leaves out short", "if len(targets) == b: loss.backward()", "dropped-tail"),
    Rule("stream", f"{STREAM}; for _ in range(epochs * len(loader) // k): ...", "carried-tail"),
    Rule("stream, rounded up", f"{STREAM}; for _ in range(ceil(epochs * len(loader) / k)): ...", "carried-tail"),
    Rule("stream, by epochs", f"{STREAM}; for _ in range(epochs * ceil(len(loader) / k)): ...", "carried-tail"),
    Rule("stream, whole windows", f"{STREAM}; for _ in range(epochs * (len(loader) // k)): ...", "carried-tail"),
    Rule("stream of samples", "rows = [i % n for i in range(start, start + b)]", "carried-tail"),
    Rule("until max_steps", "while steps < max_steps: for i, batch in enumerate(loader): ..."),
)
LEAST_ONE = {"k - 1": "max(k - 1, 1)", "k // 2": "max(k // 2, 1)", "(k - 1)": "max(k - 1, 1)"}
FLUSH = " or i + 1 == len(loader)"


def _gates() -> Iterable[Step]:
    def end(now: Now) -> bool:
        return now.i + 1 == now.length

    def last(now: Now) -> bool:
        return now.number + 1 == now.total

    def index(m: Callable[[int], int]) -> Callable[[Now], bool]:
        return lambda now: (now.i + 1) % m(now.shape.k) == 0

    def counter(m: Callable[[int], int]) -> Callable[[Now], bool]:
        return lambda now: (now.number + 1) % m(now.shape.k) == 0

    def either(one: Callable[[Now], bool], other: Callable[[Now], bool]) -> Callable[[Now], bool]:
        return lambda now: one(now) or other(now)

    def k(k: int) -> int:
        return k

    carried, early, wrong = "carried-tail", "early-first-step", "wrong-window"
    yield Step(RIGHT["step"], f"if (i + 1) % k == 0{FLUSH}:", gate=either(index(k), end))
    yield Step("every", "step()  # no condition", "step-per-micro-batch", gate=lambda _: True)
    yield Step("early", "if i % k == 0:", early, "window", gate=lambda now: now.i % now.shape.k == 0)
    yield Step(
        "early or end",
        f"if i % k == 0{FLUSH}:",
        early,
        gate=either(lambda now: now.i % now.shape.k == 0, end),
    )
    yield Step(
        "early count", "if count % k == 0: ...; count += 1", early, "count", gate=lambda n: n.number % n.shape.k == 0
    )
    yield Step("window", "if (i + 1) % k == 0:", carried, gate=index(k))
    yield Step("count", "count += 1; if count % k == 0:", carried, gate=counter(k))
    yield Step("count or last", "if count % k == 0 or count == total:", carried, gate=either(counter(k), last))
    yield Step("window or last", "if (i + 1) % k == 0 or count == total:", carried, gate=either(index(k), last))
    yield Step(
        "window or short",
        "if (i + 1) % k == 0 or i + 1 == len(loader) <= k:",
        carried,
        gate=lambda n: (n.i + 1) % n.shape.k == 0 or (n.i + 1 == n.length and n.length <= n.shape.k),
    )
    yield Step(
        "by samples", "seen += len(targets); if seen >= b * k:", carried, gate=lambda n: n.samples >= n.shape.big
    )
    yield Step(
        "by samples or end",
        f"if seen >= b * k{FLUSH}:",
        gate=either(lambda now: now.samples >= now.shape.big, end),
    )
    yield Step(
        "late",
        "if i and i % k == 0: step()  # before backward()",
        carried,
        late=True,
        gate=lambda now: now.i > 0 and now.i % now.shape.k == 0,
    )
    yield Step(
        "late count",
        "if count and count % k == 0: step()  # before backward()",
        carried,
        late=True,
        gate=lambda now: now.number > 0 and now.number % now.shape.k == 0,
    )
    yield Step(
        "split",
        "if (i + 1) % k == 0 or i + 1 > len(loader) // k * k:",
        "split-tail",
        gate=lambda now: (now.i + 1) % now.shape.k == 0 or now.i + 1 > now.length // now.shape.k * now.shape.k,
    )
    yield Step(
        "count or end",
        f"if count % k == 0{FLUSH}:  # count runs on over epochs",
        wrong,
        gate=either(counter(k), end),
    )
    yield Step("epoch", "step()  # once an epoch", wrong, gate=end)
    yield Step(
        "epoch, if accumulating",
        "step()  # once an epoch",
        wrong,
        gate=lambda now: end(now) or now.shape.k == 1,
    )
    yield Step(
        "k, then k + 1",
        f"if since == k{FLUSH}:  # since is counted from 1 at first, then from 0",
        wrong,
        gate=lambda now: end(now) or (now.since == now.shape.k + (now.i >= now.shape.k)),
        rare=True,
    )
    yield Step(
        "k + 1, then k",
        "if i and i % k == 0:",
        wrong,
        gate=lambda n: n.i > 0 and n.i % n.shape.k == 0,
        rare=True,
    )
    yield Step("k - 1, then k", "if (i + 2) % k == 0:", wrong, gate=lambda n: (n.i + 2) % n.shape.k == 0, rare=True)
    yield Step(
        "all but the last",
        "if (i + 1) % k:",
        wrong,
        gate=lambda now: not (now.i + 1) % now.shape.k == 0,  # noqa: SIM201 - what becomes JavaScript has no !=
        rare=True,
    )
    yield Step(
        "k + 1, then k, or end",
        f"if i and i % k == 0{FLUSH}:",
        wrong,
        gate=either(lambda now: now.i > 0 and now.i % now.shape.k == 0, end),
        rare=True,
    )
    yield Step(
        "overfull last",
        "if (i + 1) % k == 0 and len(loader) - i - 1 >= k or i + 1 == len(loader):",
        wrong,
        gate=lambda n: end(n) or ((n.i + 1) % n.shape.k == 0 and n.length - n.i - 1 >= n.shape.k),
        rare=True,
    )
    lengths: list[tuple[str, Callable[[int], int]]] = [
        ("k + 1", lambda k: k + 1),
        ("k - 1", lambda k: max(k - 1, 1)),
        ("k + 1 unless k is 1", lambda k: k + (k > 1)),
        ("2 * k", lambda k: 2 * k),
        ("2 * k unless k is 1", lambda k: 2 * k if k > 1 else 1),
        ("k // 2", lambda k: max(k // 2, 1)),
        *((str(m), lambda _, m=m: m) for m in (2, 3, 4, 5, 6, 8, 10, 16, 32, 64)),
    ]
    for name, length in lengths:
        code = LEAST_ONE.get(name, f"({name})" if " " in name else name)
        yield Step(
            f"{name} or end", f"if (i + 1) % {code} == 0{FLUSH}:", wrong, gate=either(index(length), end), rare=True
        )
        yield Step(name, f"if (i + 1) % {code} == 0:", wrong, gate=index(length), rare=True)
        yield Step(f"{name}, counted", f"count += 1; if count % {code} == 0:", wrong, gate=counter(length), rare=True)
        yield Step(
            f"{name}, counted, or last",
            f"if count % {code} == 0 or count == total:",
            wrong,
            gate=either(counter(length), last),
            rare=True,
        )


LISTS = "epoch's list"
RESETS = (
    Rule("after step", "optimizer.step(); optimizer.zero_grad()"),
    Rule("window start", "if i % k == 0: optimizer.zero_grad()"),
    Rule("epoch start too", "optimizer.zero_grad()  # at the start of each epoch, and after each step"),
    Rule(LISTS, "losses = []  # at the start of each epoch, and after each step"),
    Rule("window end", "if (i + 1) % k == 0: optimizer.zero_grad()", "gradients-not-reset"),
    Rule("never", "# no zero_grad()", "gradients-not-reset"),
    Rule("epoch start", "optimizer.zero_grad()  # once an epoch", "gradients-not-reset"),
    Rule("every", "optimizer.zero_grad(); loss.backward()", "gradients-lost"),
    Rule("before step", "optimizer.zero_grad(); optimizer.step()", "gradients-lost"),
    Rule("after first", "loss.backward(); if i % k == 0: optimizer.zero_grad()", "gradients-lost"),
    Rule(
        "first only",
        "if i % k == 0: kept = grad.clone()  # the gradients of other micro-batches are dropped",
        "gradients-lost",
    ),
)
MEANS = "means"  # mean-of-means, or token-weighting where the objective is a mean over tokens


def _scales() -> Iterable[Scale]:  # noqa: PLR0915 - a table
    def times(*factors: Callable[[Part], Ratio]) -> Callable[[Part], Ratio]:
        def product(part: Part) -> Ratio:
            top = bottom = 1
            for factor in factors:
                numerator, denominator = factor(part)
                top, bottom = top * numerator, bottom * denominator
            return top, bottom

        return product

    def per(number: Callable[[Shape], int]) -> Callable[[Part], Ratio]:
        return lambda part: (1, number(part.shape))

    def step_per(number: Callable[[Shape], int]) -> Callable[[Gathered], Ratio]:
        return lambda gathered: (1, number(gathered.shape))

    def share(part: Part) -> Ratio:
        return part.units, part.window_units

    def count(part: Part) -> Ratio:
        return 1, part.window_count

    def units(part: Part) -> Ratio:
        return part.units, 1

    def samples(part: Part) -> Ratio:
        return part.samples, 1

    def over_samples(part: Part) -> Ratio:
        return part.units, part.samples

    def by_k(shape: Shape) -> int:
        return shape.k

    def big(shape: Shape) -> int:
        return shape.big // shape.ranks

    mean, loss, summed = "loss = loss_fn(outputs, targets)", "loss_fn(outputs, targets)", "loss = summed_loss"
    tail, over, unscaled, wrong = "tail-scaled-by-k", "over-scaled-loss", "unscaled-loss", "wrong-scale"
    yield Scale(RIGHT["scale"], f"{mean} * units / units_in_window", weight=share)
    yield Scale("sum, items", f"{summed}; grad /= units_since_step", weight=units, divide=lambda g: (1, g.units))
    yield Scale("1/k", f"{mean} / k", tail, "1/count", weight=per(by_k))
    yield Scale("1/count", f"{mean} / len(window)", MEANS, weight=count)
    yield Scale(
        "mean, count", f"{mean}; grad /= len(window)", MEANS, "sum, items", divide=lambda g: (1, g.micro_batches)
    )
    yield Scale(
        "1/k, share in tails",
        f"{mean} * (1 / k if len(window) == k else units / units_in_window)",
        MEANS,
        weight=lambda part: (1, part.shape.k) if part.window_count == part.shape.k else share(part),
    )
    yield Scale("1", mean, unscaled, "1/count")
    yield Scale("mean, k", f"{mean}; grad /= k", tail, "mean, count", divide=step_per(by_k))
    yield Scale("sum", summed, unscaled, weight=units)
    yield Scale("sum/N", f"{summed} / (b * k)", tail, weight=times(units, per(big)))
    yield Scale("len/N", f"{mean} * len(targets) / (b * k)", tail, "len/len", weight=times(samples, per(big)))
    yield Scale("sum, N", f"{summed}; grad /= b * k", tail, "sum, items", weight=units, divide=step_per(big))
    yield Scale("sum, k", f"{summed}; grad /= k", over, "sum, items", weight=units, divide=step_per(by_k))
    yield Scale(
        "len/len",
        f"{mean} * len(targets) / samples_in_window",
        MEANS,
        weight=lambda part: (part.samples, part.window_samples),
    )
    yield Scale("len", f"{mean} * len(targets)", unscaled, "len/len", weight=samples)
    yield Scale(
        "len, items",
        f"{mean} * len(targets); grad /= samples_since_step",
        MEANS,
        "sum, items",
        weight=samples,
        divide=lambda g: (1, g.samples),
    )
    yield Scale(
        "len, N",
        f"{mean} * len(targets); grad /= b * k",
        tail,
        "len, items",
        weight=samples,
        divide=step_per(big),
    )
    yield Scale(
        "sum/len/count",
        f"{summed} / len(targets) / len(window)",
        "mean-of-means",
        "sum/sequences",
        weight=times(over_samples, count),
    )
    yield Scale(
        "sum/len/k",
        f"{summed} / len(targets) / k",
        tail,
        "sum/len/count",
        weight=times(over_samples, per(by_k)),
    )
    yield Scale("sum/len", f"{summed} / len(targets)", unscaled, "sum/len/count", weight=over_samples)
    yield Scale("sum/sequences", f"{summed} / samples_in_window", weight=lambda part: (part.units, part.window_samples))
    yield Scale(
        "sum, sequences", f"{summed}; grad /= samples_since_step", weight=units, divide=lambda g: (1, g.samples)
    )
    twice = f"loss = {loss}"
    yield Scale("1/k/k", f"{twice} / k; grad /= k", over, "1/k", weight=times(per(by_k), per(by_k)))
    yield Scale("1/count/k", f"{twice} / len(window); grad /= k", over, "1/count", weight=times(count, per(by_k)))
    yield Scale("1/count/count", f"{twice} / len(window) / len(window)", over, "1/count", weight=times(count, count))
    yield Scale("share/k", f"{twice} * units / units_in_window / k", over, weight=times(share, per(by_k)))
    yield Scale("share/count", f"{twice} * units / units_in_window / len(window)", over, weight=times(share, count))
    yield Scale(
        "len/len/k",
        f"{twice} * len(targets) / samples_in_window / k",
        over,
        "len/len",
        weight=times(lambda part: (part.samples, part.window_samples), per(by_k)),
    )
    yield Scale("sum/N/k", f"{summed} / (b * k) / k", over, "sum/N", weight=times(units, per(big), per(by_k)))
    yield Scale(
        "share*k", f"{twice} * units / units_in_window * k", unscaled, weight=times(share, lambda p: (p.shape.k, 1))
    )
    yield Scale(
        "share*count",
        f"{twice} * units / units_in_window * len(window)",
        unscaled,
        weight=times(share, lambda p: (p.window_count, 1)),
    )
    yield Scale("sum/b", f"{summed} / b", unscaled, "sum/N", weight=times(units, per(lambda s: s.b)))
    yield Scale("1/place", f"{mean} / (j + 1)", wrong, "1/count", weight=lambda part: (1, part.place + 1))
    yield Scale(
        "1/(count + 1)",
        f"{mean} / (len(window) + 1)",
        wrong,
        "1/count",
        weight=lambda part: (1, part.window_count + 1),
    )
    yield Scale(
        "1/(count - 1)",
        f"{mean} / max(len(window) - 1, 1)",
        wrong,
        "1/count",
        weight=lambda part: (1, max(part.window_count - 1, 1)),
    )
    yield Scale("1/length", f"{mean} / len(loader)", wrong, "1/count", weight=lambda part: (1, part.length))
    yield Scale(
        "share of epoch", f"{mean} * units / len(dataset)", wrong, weight=lambda part: (part.units, part.shape.n)
    )
    numbers: list[tuple[str, Callable[[Shape], int]]] = [
        ("(k + 1)", lambda s: s.k + 1),
        ("(k - 1)", lambda s: max(s.k - 1, 1)),
        ("(b * k)", big),
        ("b", lambda s: s.b),
        *((str(m), lambda _, m=m: m) for m in (2, 3, 4, 5, 6, 8, 10, 16, 32, 64)),
    ]
    for name, number in numbers:
        code = LEAST_ONE.get(name, name)
        yield Scale(f"1/{name}", f"{mean} / {code}", wrong, "1/count", weight=per(number))
        yield Scale(
            f"share/{name}", f"{mean} * units / units_in_window / {code}", wrong, weight=times(share, per(number))
        )
        yield Scale(
            f"1/count/{name}", f"{mean} / len(window) / {code}", wrong, "1/count", weight=times(count, per(number))
        )
        yield Scale(f"1/k/{name}", f"{mean} / k / {code}", wrong, "1/k", weight=times(per(by_k), per(number)))
    partial = "clipped-per-micro-batch"
    yield Scale("each /count", f"{mean}; grad /= len(window)  # at every micro-batch", partial, "1/count", each=count)
    yield Scale("each /k", f"{mean}; grad /= k  # at every micro-batch", partial, "1/k", each=per(by_k))
    yield Scale(
        "share, each /k",
        f"{mean} * units / units_in_window; grad /= k  # at every micro-batch",
        partial,
        weight=share,
        each=per(by_k),
    )
    yield Scale(
        "share, each /2",
        f"{mean} * units / units_in_window; grad /= 2  # at every micro-batch",
        partial,
        weight=share,
        each=lambda _: (1, 2),
    )
    yield Scale(
        "1/k, each /k",
        f"{mean} / k; grad /= k  # at every micro-batch",
        partial,
        "1/k",
        weight=per(by_k),
        each=per(by_k),
    )


ONCE = "before the step, once"
CLIPS = (
    Rule("none", "# gradients are not clipped"),
    Rule("norm", f"clip_grad_norm_(parameters, max_norm)  # {ONCE}"),
    Rule("value", f"clip_grad_value_(parameters, limit)  # {ONCE}"),
    Rule("norm, every", "loss.backward(); clip_grad_norm_(parameters, max_norm)", "clipped-per-micro-batch", "norm"),
    Rule(
        "norm, each gradient",
        "grads = autograd.grad(loss, parameters); clip(grads)",
        "clipped-per-micro-batch",
        "norm",
    ),
    Rule(
        "value, each gradient",
        "grads = autograd.grad(loss, parameters); clamp(grads)",
        "clipped-per-micro-batch",
        "value",
    ),
    Rule("other", "# large gradients are changed in another way than by full batches", "clipped-per-micro-batch"),
)
SCHEDULES = (
    Rule("step", "optimizer.step(); scheduler.step()"),
    Rule("never", "# no scheduler.step()"),
    Rule("epoch", "scheduler.step()  # once an epoch"),
    Rule("every", "loss.backward(); scheduler.step()", "scheduler-per-micro-batch"),
    Rule("every, behind", "if ...: optimizer.step()\nscheduler.step()", "scheduler-per-micro-batch"),
    Rule("other", "# rates, momentum or decay go by something else than optimizer steps", "scheduler-per-micro-batch"),
)
RANKS = (
    Rule("global", "loss * world_size * units / units_in_window_on_all_ranks"),
    Rule("local", "# a mean over ranks of each rank's own mean", MEANS),
    Rule("global, summed", "dist.all_reduce(grad)  # a sum; no division by the world size", "unscaled-loss"),
    Rule(
        "global, averaged",
        "# DistributedDataParallel averages, and the loss is not multiplied with the world size",
        "over-scaled-loss",
    ),
    Rule("local, summed", "dist.all_reduce(grad)  # a sum of the ranks' own means", "unscaled-loss", "local"),
    Rule(
        "local, averaged",
        "grad /= world_size  # though DistributedDataParallel averages",
        "over-scaled-loss",
        "local",
    ),
)
LOSSES = (
    Rule("mean", "loss_fn(outputs, targets)  # a mean over samples, or over unmasked tokens"),
    Rule("mean of sequences", "# each sequence's mean over its own tokens, then the mean over sequences"),
)
TABLES: dict[str, dict[str, Rule]] = {
    "visit": _table(VISITS),
    "step": _table(_gates()),
    "reset": _table(RESETS),
    "scale": _table(_scales()),
    "clip": _table(CLIPS),
    "schedule": _table(SCHEDULES),
    "ranks": _table(RANKS),
    "loss": _table(LOSSES),
}
COSTS = {
    slot: {name: (bool(rule.law), name != RIGHT[slot], place) for place, (name, rule) in enumerate(table.items())}
    for slot, table in TABLES.items()
}
