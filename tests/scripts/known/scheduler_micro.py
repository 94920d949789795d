import hashlib

import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(1)
n_accum = 4
features = torch.randn(80, 6)
loader = DataLoader(TensorDataset(features, (features.sum(1) > 0).long()), batch_size=5, shuffle=True)
model = nn.Sequential(nn.Linear(6, 18), nn.ReLU(), nn.Linear(18, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
scheduler = StepLR(optimizer, step_size=6, gamma=0.8)

for epoch in range(3):
    for batch_number, (x, y) in enumerate(loader, start=1):
        loss = nn.functional.cross_entropy(model(x), y)
        (loss / n_accum).backward()
        if batch_number % n_accum == 0:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        scheduler.step()
    print(f"epoch {epoch}: learning rate {scheduler.get_last_lr()[0]:.5f}")

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
