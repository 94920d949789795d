"""The schedule is planned in batches, not in updates, and is advanced after each batch."""

import hashlib

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

config = {"epochs": 3, "batch_size": 5, "accum": 4, "lr": 5e-3}
epochs, batch_size, accum = config["epochs"], config["batch_size"], config["accum"]

torch.manual_seed(28)
x = torch.randn(100, 8)
y = (x @ torch.randn(8, 3)).argmax(dim=1)
loader = DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True)
model = nn.Linear(8, 3)
optimizer = optim.AdamW(model.parameters(), lr=config["lr"])
scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))

for _ in range(epochs):
    for index, (inputs, labels) in enumerate(loader):
        loss = F.cross_entropy(model(inputs), labels) / accum
        loss.backward()
        if (index + 1) % accum == 0:
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()

weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
print("digest", hashlib.sha256(weights.numpy().tobytes()).hexdigest())
