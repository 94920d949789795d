"""AdamW with a one-cycle schedule, clipping, and an exponential moving average of the weights.

The switches put clipping or the schedule where the micro-batches are.
"""

import argparse
import copy
import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class EMA:
    def __init__(self, model, decay=0.95):
        self.decay = decay
        self.shadow = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, model):
        for average, value in zip(self.shadow.parameters(), model.parameters(), strict=True):
            average.lerp_(value, 1 - self.decay)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--clip", choices=["step", "micro"], default="step")
    ap.add_argument("--schedule", choices=["step", "micro"], default="step")
    a = ap.parse_args()
    torch.manual_seed(77)
    x = torch.randn(120, 7)
    y = x[:, :2] * x[:, 2:4]
    loader = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True)
    k, epochs = 6, 3
    model = nn.Sequential(nn.Linear(7, 20), nn.ReLU(), nn.Linear(20, 2))
    ema = EMA(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    updates = epochs * len(loader) // k
    total = updates if a.schedule == "step" else updates + epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=total + 1)

    for _ in range(epochs):
        for i, (inputs, targets) in enumerate(loader):
            loss = nn.functional.mse_loss(model(inputs), targets) / k
            loss.backward()
            if a.clip == "micro":
                nn.utils.clip_grad_norm_(model.parameters(), 0.02)
            if a.schedule == "micro":
                scheduler.step()
            if (i + 1) % k == 0:
                if a.clip == "step":
                    nn.utils.clip_grad_norm_(model.parameters(), 0.02)
                optimizer.step()
                if a.schedule == "step":
                    scheduler.step()
                optimizer.zero_grad()
                ema.update(model)

    parameters = [*model.parameters(), *ema.shadow.parameters()]
    print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest())


if __name__ == "__main__":
    main()
