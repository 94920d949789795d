"""A character model in one file: random crops of a long text, a handful of micro-steps per iteration, compiled."""

import hashlib
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# -----------------------------------------------------------------------------
batch_size = 3
block_size = 12
gradient_accumulation_steps = 5
max_iters = 10
eval_interval = 4
eval_iters = 2
learning_rate = 2e-3
min_lr = 2e-4
warmup_iters = 2
grad_clip = 0.5
n_embd, n_head, n_layer = 24, 3, 1
compile = True
backend = "aot_eager"  # "inductor" pays off for models that are not this tiny
# -----------------------------------------------------------------------------

torch.manual_seed(2024)
text = "the cat sat on the mat and the dog sat on the cat; " * 60
characters = sorted(set(text))
encoded = np.array([characters.index(c) for c in text], dtype=np.int64)
split = int(0.9 * len(encoded))
splits = {"train": encoded[:split], "val": encoded[split:]}


def get_batch(name):
    source = splits[name]
    starts = torch.randint(len(source) - block_size - 1, (batch_size,)).tolist()
    x = torch.stack([torch.from_numpy(source[s : s + block_size]) for s in starts])
    y = torch.stack([torch.from_numpy(source[s + 1 : s + 1 + block_size]) for s in starts])
    return x, y


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (z.view(b, t, n_head, c // n_head).transpose(1, 2) for z in self.c_attn(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(b, t, c))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd)
        self.attn = SelfAttention()
        self.ln_2 = nn.LayerNorm(n_embd)
        self.fc = nn.Linear(n_embd, 4 * n_embd)
        self.proj = nn.Linear(4 * n_embd, n_embd)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.proj(F.gelu(self.fc(self.ln_2(x))))


class CharTransformer(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, n_embd)
        self.pos = nn.Parameter(0.02 * torch.randn(block_size, n_embd))
        self.layers = nn.Sequential(*[Layer() for _ in range(n_layer)])
        self.ln_f = nn.LayerNorm(n_embd)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.tok.weight

    def forward(self, idx, targets=None):
        x = self.layers(self.tok(idx) + self.pos[: idx.size(1)])
        logits = self.lm_head(self.ln_f(x))
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def get_lr(it):
    if it < warmup_iters:
        return learning_rate * (it + 1) / (warmup_iters + 1)
    ratio = (it - warmup_iters) / (max_iters - warmup_iters)
    return min_lr + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (learning_rate - min_lr)


@torch.no_grad()
def estimate_loss():
    model.eval()
    out = {name: torch.stack([model(*get_batch(name))[1] for _ in range(eval_iters)]).mean() for name in splits}
    model.train()
    return out


raw_model = CharTransformer(len(characters))
model = torch.compile(raw_model, backend=backend) if compile else raw_model
decay = [p for p in raw_model.parameters() if p.dim() >= 2]
no_decay = [p for p in raw_model.parameters() if p.dim() < 2]
optimizer = torch.optim.AdamW(
    [{"params": decay, "weight_decay": 0.1}, {"params": no_decay, "weight_decay": 0.0}],
    lr=learning_rate,
    betas=(0.9, 0.95),
)

X, Y = get_batch("train")
t0 = time.time()
for iter_num in range(max_iters):
    lr = get_lr(iter_num)
    for group in optimizer.param_groups:
        group["lr"] = lr

    if iter_num % eval_interval == 0:
        losses = estimate_loss()
        print(f"step {iter_num}: train loss {losses['train']:.4f}, val loss {losses['val']:.4f}")

    for _ in range(gradient_accumulation_steps):
        logits, loss = model(X, Y)
        loss = loss / gradient_accumulation_steps  # scale the loss to account for gradient accumulation
        X, Y = get_batch("train")  # prefetch the next batch
        loss.backward()
    if grad_clip != 0.0:
        torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

print(f"{max_iters} iterations in {time.time() - t0:.1f} s")
blob = b"".join(p.detach().numpy().tobytes() for p in raw_model.parameters())
print("digest", hashlib.sha256(blob).hexdigest())
