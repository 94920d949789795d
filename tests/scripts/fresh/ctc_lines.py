"""Read lines of symbols with CTC."""

import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

MICRO, ACC, EPOCHS = 4, 3, 2


class Lines(Dataset):
    def __init__(self, n):
        g = torch.Generator().manual_seed(2)
        self.items = []
        for _ in range(n):
            length = int(torch.randint(2, 6, (1,), generator=g))
            text = torch.randint(1, 8, (length,), generator=g)
            frames = torch.randn(20, 8, generator=g) * 0.1
            frames[torch.arange(length) * 3, text] += 2
            self.items.append((frames, text))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def collate(items):
    frames = torch.stack([f for f, _ in items])
    lengths = torch.tensor([len(t) for _, t in items])
    return frames, torch.cat([t for _, t in items]), lengths


torch.manual_seed(2)
reader = nn.LSTM(8, 12, batch_first=True, bidirectional=True)
classify = nn.Linear(24, 8)
parameters = [*reader.parameters(), *classify.parameters()]
optimizer = torch.optim.Adam(parameters, lr=5e-3)
ctc = nn.CTCLoss(blank=0, zero_infinity=True)
loader = DataLoader(Lines(60), batch_size=MICRO, shuffle=True, collate_fn=collate)

for _ in range(EPOCHS):
    for i, (frames, text, lengths) in enumerate(loader):
        log_probs = classify(reader(frames)[0]).log_softmax(-1).transpose(0, 1)
        frame_counts = torch.full((len(frames),), frames.shape[1])
        loss = ctc(log_probs, text, frame_counts, lengths)
        loss.div(ACC).backward()
        if i % ACC == ACC - 1:
            optimizer.step()
            optimizer.zero_grad()

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest())
