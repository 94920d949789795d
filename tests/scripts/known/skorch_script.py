"""Gradient accumulation with skorch, as its FAQ has it: divide in get_loss, step in train_step."""

import hashlib

import torch
from skorch import NeuralNetRegressor
from torch import nn

ACCUMULATION_STEPS = 4


class Net(nn.Module):
    def __init__(self, hidden=12):
        super().__init__()
        self.hidden = nn.Linear(5, hidden)
        self.output = nn.Linear(hidden, 1)

    def forward(self, X):  # noqa: N803
        return self.output(torch.relu(self.hidden(X)))


class AccumulatingRegressor(NeuralNetRegressor):
    def get_loss(self, *args, **kwargs):
        return super().get_loss(*args, **kwargs) / ACCUMULATION_STEPS

    def train_step(self, batch, **fit_params):
        number = len(self.history[-1, "batches"])
        step = self.train_step_single(batch, **fit_params)
        if number % ACCUMULATION_STEPS == 0:
            self.optimizer_.step()
            self.optimizer_.zero_grad()
        return step


if __name__ == "__main__":
    torch.manual_seed(7)
    x = torch.randn(120, 5)
    y = x[:, :1] - x[:, 1:2] ** 2
    net = AccumulatingRegressor(
        Net,
        criterion=nn.MSELoss,
        optimizer=torch.optim.SGD,
        lr=0.02,
        max_epochs=2,
        batch_size=4,
        iterator_train__shuffle=True,
        verbose=0,
    )
    net.fit(x, y)
    content = b"".join(p.detach().numpy().tobytes() for p in net.module_.parameters())
    print("digest", hashlib.sha256(content).hexdigest())
