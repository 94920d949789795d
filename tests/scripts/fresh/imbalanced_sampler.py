"""Oversample the rare class with replacement."""

import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

config = {"lr": 0.05, "micro_batch": 8, "accum_iter": 2, "epochs": 3, "seed": 17}

torch.manual_seed(config["seed"])
x = torch.randn(80, 6)
y = (x[:, 0] > 1.2).long()
class_count = torch.bincount(y)
sampler = WeightedRandomSampler(1.0 / class_count[y].float(), num_samples=96, replacement=True)
loader = DataLoader(TensorDataset(x, y), batch_size=config["micro_batch"], sampler=sampler)

model = nn.Sequential(nn.Linear(6, 10), nn.Dropout(0.2), nn.ELU(), nn.Linear(10, 2))
optimizer = torch.optim.Adagrad(model.parameters(), lr=config["lr"])
loss_fn = nn.CrossEntropyLoss()

for epoch in range(config["epochs"]):
    correct = count = 0
    for batch_idx, (inputs, labels) in enumerate(loader):
        with torch.set_grad_enabled(True):
            preds = model(inputs)
            loss = loss_fn(preds, labels) / config["accum_iter"]
            loss.backward()
            if ((batch_idx + 1) % config["accum_iter"] == 0) or (batch_idx + 1 == len(loader)):
                optimizer.step()
                optimizer.zero_grad()
        correct += (preds.argmax(1) == labels).sum().item()
        count += len(labels)
    print(f"epoch {epoch} accuracy {correct / count:.3f}")

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
