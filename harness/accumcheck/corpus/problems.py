"""The problems that ship: a model, real data that installed packages hold, and a loss."""

from __future__ import annotations

from functools import partial

from torch.nn import functional as F

from accumcheck.corpus import data, models
from accumcheck.training.problem import Problem

PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("linear", models.linear, data.diabetes, F.mse_loss),
        Problem("mlp", models.mlp, data.digits),
        Problem("cnn", models.cnn, data.digits),
        Problem("cnn-batchnorm", partial(models.cnn, "batch"), data.digits),
        Problem("gpt-windows", models.GPT, data.text_windows),
        Problem("gpt-lines", models.GPT, data.text_lines, objective="token"),
    )
}
