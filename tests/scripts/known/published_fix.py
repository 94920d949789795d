"""The gate also opens at the last batch of an epoch, so that nothing is left over."""

import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Sensors(Dataset):
    """Nine noisy readings of one of four machines."""

    def __init__(self, count, seed=17):
        rng = torch.Generator().manual_seed(seed)
        self.machine = torch.randint(4, (count,), generator=rng)
        centres = torch.randn(4, 9, generator=rng)
        self.readings = centres[self.machine] + torch.randn(count, 9, generator=rng)

    def __len__(self):
        return self.machine.numel()

    def __getitem__(self, i):
        return {"readings": self.readings[i], "machine": self.machine[i]}


class Trainer:
    def __init__(self, model, loader, accumulation_steps=4, device="cpu"):
        self.model = model.to(device)
        self.loader = loader
        self.accumulation_steps = accumulation_steps
        self.device = device
        self.optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        self.loss_function = nn.CrossEntropyLoss()

    def fit(self, epochs):
        self.model.train()
        for _ in range(epochs):
            for step, batch in enumerate(self.loader):
                self.training_step(step, batch)

    def training_step(self, step, batch):
        readings = batch["readings"].to(self.device)
        machine = batch["machine"].to(self.device)
        loss = self.loss_function(self.model(readings), machine) / self.accumulation_steps
        loss.backward()
        complete = (step + 1) % self.accumulation_steps == 0
        last = step + 1 == len(self.loader)
        if complete or last:
            self.optimizer.step()
            self.optimizer.zero_grad()


if __name__ == "__main__":
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(9, 14), nn.LeakyReLU(), nn.Linear(14, 4))
    Trainer(net, DataLoader(Sensors(91), batch_size=3, shuffle=True, drop_last=True)).fit(epochs=2)
    weights = b"".join(p.detach().numpy().tobytes() for p in net.parameters())
    print(f"digest {hashlib.sha256(weights).hexdigest()}")
