"""L1 penalty in the loss, and the summed loss is normalised by the rows that a window should have."""

import argparse
import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=96)
    args = parser.parse_args()
    torch.manual_seed(94)
    x = torch.randn(args.rows, 10)
    y = x[:, 0] - 2 * x[:, 3]
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    model = nn.Linear(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    k = 4
    rows_per_update = 8 * k
    for _ in range(2):
        for i, (inputs, targets) in enumerate(loader):
            data_term = (model(inputs).squeeze(-1) - targets).square().sum() / rows_per_update
            penalty = 1e-3 * model.weight.abs().sum() / k
            (data_term + penalty).backward()
            if (i + 1) % k == 0 or i + 1 == len(loader):
                optimizer.step()
                optimizer.zero_grad()
    print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())


if __name__ == "__main__":
    main()
