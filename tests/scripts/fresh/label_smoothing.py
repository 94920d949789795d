import argparse
import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def train(model, loader, criterion, optimizer, accum):
    model.train()
    optimizer.zero_grad()
    for batch_idx, (inputs, targets) in enumerate(loader):
        outputs = model(inputs)
        loss = criterion(outputs, targets) / accum
        loss.backward()
        if (batch_idx + 1) % accum == 0 or (batch_idx + 1) == len(loader):
            optimizer.step()
            optimizer.zero_grad()


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--samples", type=int, default=192)
    p.add_argument("--accum", type=int, default=4)
    args = p.parse_args()

    torch.manual_seed(21)
    x = torch.randn(args.samples, 3, 8, 8)
    y = torch.randint(0, 5, (args.samples,))
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, nesterov=True)
    for _ in range(2):
        train(model, loader, criterion, optimizer, args.accum)
    print("digest", hashlib.sha256(b"".join(q.detach().numpy().tobytes() for q in model.parameters())).hexdigest())
