"""Save a checkpoint, build everything anew, load it, and go on.

python resume.py --save-at 8
python resume.py --save-at 6
"""

import argparse
import hashlib
import io

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

K, EPOCHS = 4, 2


def build():
    model = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 1))
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def batches(dataset, epoch, skip):
    order = torch.Generator().manual_seed(100 + epoch)
    loader = DataLoader(dataset, batch_size=6, shuffle=True, generator=order)
    for i, batch in enumerate(loader):
        if i >= skip:
            yield i, batch


def train(model, optimizer, dataset, epoch, skip=0, stop=None):
    for i, (x, y) in batches(dataset, epoch, skip):
        if i == stop:
            return
        loss = nn.functional.mse_loss(model(x), y)
        (loss / K).backward()
        if (i + 1) % K == 0:
            optimizer.step()
            optimizer.zero_grad()


parser = argparse.ArgumentParser()
parser.add_argument("--save-at", type=int, default=8)
args = parser.parse_args()
torch.manual_seed(33)
x = torch.randn(72, 5)
dataset = TensorDataset(x, x.mean(1, keepdim=True))

model, optimizer = build()
train(model, optimizer, dataset, epoch=0)
train(model, optimizer, dataset, epoch=1, stop=args.save_at)
file = io.BytesIO()
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "batch": args.save_at}, file)

# another day
file.seek(0)
checkpoint = torch.load(file)
model, optimizer = build()
model.load_state_dict(checkpoint["model"])
optimizer.load_state_dict(checkpoint["optimizer"])
train(model, optimizer, dataset, epoch=1, skip=checkpoint["batch"])
train(model, optimizer, dataset, epoch=2)

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
