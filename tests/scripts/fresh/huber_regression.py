"""Huber regression on the diabetes table. --scale picks what the loss is multiplied by."""

import argparse
import hashlib

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def scale_gradients(parameters, factor):
    for p in parameters:
        if p.grad is not None:
            p.grad.detach().mul_(factor)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--scale", choices=["mean", "sum", "twice", "loader"], default="mean")
    ap.add_argument("--k", type=int, default=4)
    a = ap.parse_args()
    torch.manual_seed(81)
    diabetes = load_diabetes()
    x = torch.tensor(diabetes.data[:240], dtype=torch.float32) * 20
    y = torch.tensor(diabetes.target[:240], dtype=torch.float32)[:, None] / 100
    loader = DataLoader(TensorDataset(x, y), batch_size=10, shuffle=True)
    model = nn.Sequential(nn.Linear(10, 12), nn.Softplus(), nn.Linear(12, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    criterion = nn.HuberLoss(delta=0.5)
    factor = {"mean": 1 / a.k, "sum": 1.0, "twice": 1 / a.k, "loader": 1 / len(loader)}[a.scale]
    for _ in range(2):
        for i, (inputs, target) in enumerate(loader):
            loss = criterion(model(inputs), target) * factor
            loss.backward()
            if (i + 1) % a.k == 0:
                if a.scale == "twice":
                    scale_gradients(model.parameters(), 1 / a.k)
                optimizer.step()
                optimizer.zero_grad()
    print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())


if __name__ == "__main__":
    main()
