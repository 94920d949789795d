"""Padded sequences; the window is fetched first, so that its tokens can be counted.

python lm_padded.py --normalise tokens
python lm_padded.py --normalise steps
"""

import argparse
import hashlib
from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--normalise", choices=["tokens", "steps"], default="tokens")
parser.add_argument("--sequences", type=int, default=48)
parser.add_argument("--ga", type=int, default=4)
args = parser.parse_args()

torch.manual_seed(3)
VOCAB, LENGTH = 17, 12
ids = torch.randint(1, VOCAB, (args.sequences, LENGTH))
lengths = torch.randint(3, LENGTH + 1, (args.sequences,))
labels = ids.masked_fill(torch.arange(LENGTH) >= lengths[:, None], -100)
loader = DataLoader(TensorDataset(ids, labels), batch_size=3, shuffle=True)


class TinyLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(VOCAB, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, VOCAB, bias=False)

    def forward(self, ids):
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return self.head(self.block(self.wte(ids), src_mask=mask, is_causal=True))


model = TinyLM()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

for _ in range(2):
    batches = iter(loader)
    while window := list(islice(batches, args.ga)):
        window_tokens = sum((y[:, 1:] != -100).sum() for _, y in window)
        for x, y in window:
            logits = model(x)[:, :-1]
            target = y[:, 1:]
            loss = F.cross_entropy(logits.reshape(-1, VOCAB), target.reshape(-1), ignore_index=-100)
            share = (target != -100).sum() / window_tokens if args.normalise == "tokens" else 1 / len(window)
            (loss * share).backward()
        optimizer.step()
        optimizer.zero_grad()

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
