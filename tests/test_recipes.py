"""The loops to copy: as they are printed, they are right."""

import pytest
import torch
from accumcheck import check_equivalence
from accumcheck.cli import main
from accumcheck.corpus.recipes import RECIPES, as_loop


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_recipes_are_right_as_they_are_printed(recipe, capsys):
    style, objective = recipe.__name__.split("_")
    assert main(["recipe", "--objective", objective, "--style", style]) == 0
    printed = capsys.readouterr().out
    assert "task" not in printed
    names = {}
    exec(printed, names)
    report = check_equivalence(as_loop(names["train"]), objective=objective)
    assert report, str(report)


@pytest.mark.parametrize("style", ["window", "stream", "scaler"])
def test_a_recipe_for_samples_is_wrong_for_tokens(style):
    recipe = next(each for each in RECIPES if each.__name__ == f"{style}_sample")
    assert check_equivalence(as_loop(recipe), objective="token").findings[0].id == "token-weighting"


def test_a_recipe_trains(capsys):
    main(["recipe"])
    names = {}
    exec(capsys.readouterr().out, names)
    model = torch.nn.Linear(3, 2)
    before = model.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    batches = [(torch.randn(2, 3), torch.tensor([0, 1])) for _ in range(5)]
    names["train"](model, optimizer, scheduler, torch.nn.functional.cross_entropy, batches, 4, 1)
    assert not model.weight.equal(before)
