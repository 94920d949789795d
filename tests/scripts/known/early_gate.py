import hashlib

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(42)

accumulation_steps = 8
num_epochs = 2
learning_rate = 2e-3


class Rings(Dataset):
    """Points in the plane; the label says whether they lie inside the unit circle."""

    def __init__(self, size):
        self.points = torch.randn(size, 2)
        self.labels = (self.points.norm(dim=1) < 1.0).long()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.points[index], self.labels[index]


train_loader = DataLoader(Rings(184), batch_size=1, shuffle=True)
model = torch.nn.Sequential(
    torch.nn.Linear(2, 24),
    torch.nn.SiLU(),
    torch.nn.Linear(24, 2),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)

for epoch in range(num_epochs):
    model.train()
    for batch_idx, (features, labels) in enumerate(train_loader):
        logits = model(features)
        loss = F.cross_entropy(logits, labels)

        # normalise, because gradients add up
        loss = loss / accumulation_steps
        loss.backward()

        if not batch_idx % accumulation_steps:
            optimizer.step()
            optimizer.zero_grad()

        if batch_idx % 64 == 0:
            print(f"Epoch {epoch + 1}/{num_epochs} | batch {batch_idx:03d} | loss {loss * accumulation_steps:.3f}")

flat = torch.cat([p.detach().flatten() for p in model.parameters()])
print("digest", hashlib.sha256(flat.numpy().tobytes()).hexdigest())
