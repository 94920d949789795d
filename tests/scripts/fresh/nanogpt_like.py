"""A trainer in the manner of small GPT repositories: a window is `for micro_step in range(k)`."""

import argparse
import hashlib
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--sequences", type=int, default=64)
args = parser.parse_args()

gradient_accumulation_steps = 4
batch_size = 4
max_iters = 9
learning_rate = 1e-2
grad_clip = 0.2
torch.manual_seed(1337)

tokens = torch.randint(0, 19, (args.sequences, 9))
loader = DataLoader(TensorDataset(tokens[:, :-1], tokens[:, 1:]), batch_size=batch_size, shuffle=True)


class GPT(nn.Module):
    def __init__(self, vocab=19, width=16):
        super().__init__()
        self.wte = nn.Embedding(vocab, width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.ln = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocab, bias=False)

    def forward(self, idx, targets):
        x = self.wte(idx)
        mask = torch.ones(idx.shape[1], idx.shape[1], dtype=torch.bool).triu(1)
        x = self.ln(x + self.attn(x, x, x, attn_mask=mask, need_weights=False)[0])
        logits = self.lm_head(x)
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1), ignore_index=-1)


def get_lr(it):
    if it < 2:
        return learning_rate * (it + 1) / 2
    return learning_rate * 0.5 * (1 + math.cos(math.pi * it / max_iters))


model = GPT()
decay = [p for p in model.parameters() if p.dim() >= 2]
rest = [p for p in model.parameters() if p.dim() < 2]
optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}])

data_iter = iter(loader)


def next_batch():
    global data_iter  # noqa: PLW0603
    try:
        return next(data_iter)
    except StopIteration:
        data_iter = iter(loader)
        return next(data_iter)


for iter_num in range(max_iters):
    for group in optimizer.param_groups:
        group["lr"] = get_lr(iter_num)
    for _micro_step in range(gradient_accumulation_steps):
        x, y = next_batch()
        _, loss = model(x, y)
        loss = loss / gradient_accumulation_steps
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
