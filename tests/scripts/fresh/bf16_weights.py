"""The whole model in bfloat16, gradients too."""

import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(86)
x = torch.randn(128, 8)
y = x[:, :1] * 2 - x[:, 1:2]
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)).to(torch.bfloat16)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
k = 16

for _ in range(2):
    for i, (inputs, targets) in enumerate(loader):
        prediction = model(inputs.bfloat16())
        loss = nn.functional.mse_loss(prediction.float(), targets) / k
        loss.backward()
        if (i + 1) % k == 0:
            optimizer.step()
            optimizer.zero_grad()

print("digest", hashlib.sha256(b"".join(p.detach().float().numpy().tobytes() for p in model.parameters())).hexdigest())
