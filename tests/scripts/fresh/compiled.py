"""A compiled model."""

import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(51)
x = torch.randn(64, 10)
y = torch.randint(0, 3, (64,))
net = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3))
model = torch.compile(net, backend="aot_eager")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
accumulation_counter = 0

for _ in range(2):
    for inputs, labels in loader:
        loss = criterion(model(inputs), labels) * 0.25
        loss.backward()
        accumulation_counter += 1
        if accumulation_counter == 4:
            optimizer.step()
            optimizer.zero_grad()
            accumulation_counter = 0

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in net.parameters())).hexdigest())
