from dataclasses import replace
from functools import partial

import pytest
import torch
from accumcheck.corpus import data, models
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.training.coupling import Coupling, examine
from accumcheck.training.problem import DTYPES, Problem
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

NOTHING = Coupling(mixes=None, draws=None)


class Forward(nn.Module):
    """A linear map behind a function of the features and of whether the model trains."""

    def __init__(self, function):
        super().__init__()
        self.function, self.linear = function, nn.Linear(10, 1)

    def forward(self, features):
        return self.linear(self.function(features, self.training))


def regression(function):
    return Problem("p", partial(Forward, function), data.diabetes, F.mse_loss)


def classifier(*modules):
    return Problem("p", lambda: nn.Sequential(nn.Flatten(), *modules, nn.Linear(64, 10)), data.digits)


def sequences(samples, seed, time=6, width=4):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(samples, time, width, generator=generator), torch.randn(samples, time, width, generator=generator)
    )


def contrastive(embeddings, targets):
    return F.cross_entropy(embeddings @ embeddings.T, torch.arange(len(embeddings)))


def frozen_batchnorm():
    model = models.cnn("batch")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=str)
def test_of_the_bundled_problems_only_batchnorm_mixes(problem, dtype):
    expected = Coupling("1 (BatchNorm2d)", None) if problem.name == "cnn-batchnorm" else NOTHING
    assert examine(problem, dtype=dtype) == expected


@pytest.mark.parametrize("samples", [4, 5, 9])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_neither_samples_nor_seed_matter(samples, seed):
    assert examine(PROBLEMS["cnn-batchnorm"], samples=samples, seed=seed).mixes == "1 (BatchNorm2d)"
    assert examine(PROBLEMS["gpt-lines"], samples=samples, seed=seed) == NOTHING


@pytest.mark.parametrize("norm", [nn.LayerNorm(64), nn.GroupNorm(4, 64), nn.ReLU(inplace=True), nn.Dropout(0.0)])
def test_modules_that_keep_samples_apart(norm):
    assert examine(classifier(norm)) == NOTHING


def test_frozen_batchnorm_does_not_mix():
    assert examine(replace(PROBLEMS["cnn-batchnorm"], model=frozen_batchnorm)) == NOTHING


def test_a_model_in_evaluation_mode_is_examined_in_training_mode():
    problem = replace(PROBLEMS["cnn-batchnorm"], model=lambda: models.cnn("batch").eval())
    assert examine(problem).mixes == "1 (BatchNorm2d)"


def test_dropout_of_a_gpt_draws_and_does_not_mix():
    gpt = partial(models.GPT, models.GPTConfig(dropout=0.1))
    assert examine(replace(PROBLEMS["gpt-lines"], model=gpt)) == Coupling(mixes=None, draws="dropout (Dropout)")


def test_mixing_is_found_behind_dropout():
    problem = classifier(nn.Dropout(0.2), nn.BatchNorm1d(64), nn.Dropout(0.2))
    assert examine(problem) == Coupling(mixes="2 (BatchNorm1d)", draws="1 (Dropout)")


def test_a_loss_over_the_batch_mixes():
    assert examine(replace(PROBLEMS["mlp"], loss=contrastive)) == Coupling(mixes="the loss", draws=None)


def test_a_token_mean_is_no_sample_mean():
    assert examine(PROBLEMS["gpt-lines"]) == NOTHING
    assert examine(replace(PROBLEMS["gpt-lines"], objective="sample")).mixes == "the loss"


def test_a_forward_of_its_own():
    assert examine(regression(lambda x, training: x - x.mean(0))) == Coupling(mixes="the model", draws=None)
    assert examine(regression(lambda x, training: x.cumsum(0))).mixes == "the model"  # the first half alone is as in it
    assert examine(regression(lambda x, training: x - x.mean(1, keepdim=True))) == NOTHING


def test_functional_dropout():
    assert examine(regression(lambda x, training: F.dropout(x, 0.5, training))) == Coupling(None, "the model")
    assert examine(regression(lambda x, training: F.dropout(x, 0.5))) == Coupling(None, "the model")
    noisy = regression(lambda x, training: F.dropout(x - x.mean(0), 0.5, training))
    assert examine(noisy) == Coupling("the model", "the model")


def test_a_loss_that_draws():
    def noisy(outputs, targets):
        return F.mse_loss(outputs + torch.randn_like(outputs), targets)

    assert examine(replace(PROBLEMS["linear"], loss=noisy)) == Coupling(mixes=None, draws="the loss")


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_over_the_wrong_dimension(batch_first):
    def encoder():
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=batch_first)
        return nn.Sequential(nn.Linear(4, 4), layer)

    expected = None if batch_first else "1.self_attn (MultiheadAttention)"
    assert examine(Problem("p", encoder, sequences, F.mse_loss)) == Coupling(expected, None)


def test_modules_with_the_batch_in_another_dimension():
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.lstm = nn.Linear(4, 4), nn.LSTM(4, 4)

        def forward(self, sequence):
            sequence = sequence.transpose(0, 1)
            flat = self.flat(sequence.flatten(0, 1)).unflatten(0, sequence.shape[:2])
            return self.lstm(flat)[0].transpose(0, 1)

    assert examine(Problem("p", TimeFirst, sequences, F.mse_loss)) == NOTHING


def test_weight_norm_can_be_copied():
    def model():
        return nn.utils.weight_norm(nn.Linear(10, 1))

    assert examine(replace(PROBLEMS["linear"], model=model)) == NOTHING


def test_nothing_is_left_changed():
    shared = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10)).double()
    before = {name: value.clone() for name, value in shared.state_dict().items()}
    stream, enabled = torch.get_rng_state(), torch.is_grad_enabled()
    with torch.no_grad():
        assert examine(Problem("p", lambda: shared, data.digits)).mixes == "1 (BatchNorm1d)"
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.is_grad_enabled() == enabled
    assert all(torch.equal(value, before[name]) for name, value in shared.state_dict().items())
    for module in shared.modules():
        assert module.training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_what_cannot_be_examined():
    with pytest.raises(ValueError, match="samples must be at least 4, so that each half has two, got 3"):
        examine(PROBLEMS["mlp"], samples=3)
    with pytest.raises(ValueError, match="dtype must be one of float64, float32, bfloat16, got 'fp8'"):
        examine(PROBLEMS["mlp"], dtype="fp8")


def test_a_statistic_of_the_batch_beside_the_output_is_no_sample_s():
    class Gate(nn.Linear):
        def forward(self, features):
            output = super().forward(features)
            return output, output.mean()

    class Gated(nn.Module):
        def __init__(self, used):
            super().__init__()
            self.used, self.gate = used, Gate(10, 1)

        def forward(self, features):
            output, mean = self.gate(features)
            return output - mean if self.used else output

    for used, mixes in (False, None), (True, "the model"):
        assert examine(replace(PROBLEMS["linear"], model=partial(Gated, used))).mixes == mixes
