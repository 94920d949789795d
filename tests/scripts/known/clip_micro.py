import hashlib

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, TensorDataset

accum_iter = 4
max_grad_norm = 0.1
torch.manual_seed(31)

ages = torch.rand(80, 8)
prices = 6.0 * ages.sum(dim=1, keepdim=True) + torch.randn(80, 1)
train_loader = DataLoader(TensorDataset(ages, prices), batch_size=5, shuffle=True)

model = nn.Sequential(nn.Linear(8, 16), nn.Softplus(), nn.Linear(16, 1))
criterion = nn.SmoothL1Loss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

optimizer.zero_grad()
for epoch in range(2):
    for batch_idx, (inputs, labels) in enumerate(train_loader):
        with torch.set_grad_enabled(True):
            preds = model(inputs)
            loss = criterion(preds, labels)
            loss = loss / accum_iter
            loss.backward()
            # gradients explode without this
            clip_grad_norm_(model.parameters(), max_grad_norm)
            if ((batch_idx + 1) % accum_iter == 0) or (batch_idx + 1 == len(train_loader)):
                optimizer.step()
                optimizer.zero_grad()
    print(f"epoch {epoch} loss {loss.item() * accum_iter:.4f}")

sha = hashlib.sha256()
for _, tensor in sorted(model.named_parameters()):
    sha.update(tensor.detach().numpy().tobytes())
print("digest", sha.hexdigest())
