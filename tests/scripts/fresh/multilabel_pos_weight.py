"""Multi-label tagging with BCE and pos_weight."""

import hashlib

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset


class Tagger:
    def __init__(self, micro_batch=7, steps=3):
        torch.manual_seed(13)
        x = torch.randn(100, 12)
        y = (x @ torch.randn(12, 4) > 1.5).float()
        data = TensorDataset(x, y)
        batches = BatchSampler(RandomSampler(data), micro_batch, drop_last=False)
        self.loader = DataLoader(data, batch_sampler=batches)
        self.steps = steps
        self.model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))
        self.loss = nn.BCEWithLogitsLoss(pos_weight=(len(y) - y.sum(0)) / y.sum(0))
        self.optimizer = torch.optim.RMSprop(self.model.parameters(), lr=1e-3)

    def update(self, window):
        self.optimizer.zero_grad()
        rows = sum(len(y) for _, y in window)
        for x, y in window:
            share = len(y) / rows
            (share * self.loss(self.model(x), y)).backward()
        self.optimizer.step()

    def fit(self, epochs):
        for _ in range(epochs):
            window = []
            for batch in self.loader:
                window.append(batch)
                if len(window) == self.steps:
                    self.update(window)
                    window = []
            if window:
                self.update(window)
        return self


tagger = Tagger().fit(epochs=2)
print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in tagger.model.parameters())).hexdigest())
