"""A GRU language model with a masked loss of its own: the mean over the tokens of a batch that are no padding."""

import hashlib
import random

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

PAD = 0
VOCAB_SIZE = 26
ACCUM_STEPS = 4


class Names(Dataset):
    def __init__(self, size, seed=99):
        rng = random.Random(seed)
        self.names = [[rng.randrange(1, VOCAB_SIZE) for _ in range(rng.randint(3, 16))] for _ in range(size)]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return self.names[index]


def pad(names):
    longest = max(len(name) for name in names)
    return torch.tensor([name + [PAD] * (longest - len(name)) for name in names])


class CharGRU(nn.Module):
    def __init__(self, hidden=20):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, hidden, padding_idx=PAD)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.out = nn.Linear(hidden, VOCAB_SIZE)

    def forward(self, tokens):
        states, _ = self.gru(self.embedding(tokens))
        return self.out(states).log_softmax(dim=-1)


def masked_loss(log_probs, target):
    mask = target.ne(PAD)
    picked = torch.gather(log_probs, 2, target[..., None])[..., 0]
    return -(picked * mask).sum() / mask.sum()


def main():
    torch.manual_seed(4)
    model = CharGRU()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loader = DataLoader(Names(80), batch_size=5, shuffle=True, collate_fn=pad)
    for _ in range(2):
        optimizer.zero_grad()
        for i, batch in enumerate(loader):
            source, target = batch[:, :-1], batch[:, 1:]
            loss = masked_loss(model(source), target)
            (loss / ACCUM_STEPS).backward()
            if i % ACCUM_STEPS == ACCUM_STEPS - 1:
                optimizer.step()
                optimizer.zero_grad()
    digest = hashlib.sha256()
    for weight in model.parameters():
        digest.update(weight.detach().numpy().tobytes())
    print("digest", digest.hexdigest())


main()
