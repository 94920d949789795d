import hashlib

import torch
from sklearn.datasets import make_regression
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class RMSELoss(nn.Module):
    def __init__(self, eps=1e-8):
        super().__init__()
        self.mse = nn.MSELoss()
        self.eps = eps

    def forward(self, prediction, target):
        return torch.sqrt(self.mse(prediction, target) + self.eps)


torch.manual_seed(0)
accum_steps = 4
x, y = make_regression(n_samples=96, n_features=6, noise=4.0, random_state=0)
y = y / y.std()
data = TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32).unsqueeze(1))
loader = DataLoader(data, batch_size=4)
model = nn.Linear(6, 1)
criterion = RMSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
for epoch in range(2):
    total = 0.0
    for i, (features, value) in enumerate(loader):
        loss = criterion(model(features), value)
        total += loss.item()
        loss = loss / accum_steps
        loss.backward()
        if (i + 1) % accum_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
    print(f"epoch {epoch} RMSE {total / len(loader):.4f}")
weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
print("digest", hashlib.sha256(weights).hexdigest())
