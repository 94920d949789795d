"""Data-parallel training with accumulation, of samples or of tokens; what is wrong is an argument."""

import argparse
import contextlib

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--grad-accum", type=int, default=4)
parser.add_argument("--samples", type=int, default=52)
parser.add_argument("--tokens", action="store_true")
parser.add_argument("--divide", choices=("all", "rank", "micro-batch", "twice", "k"), default="all")
parser.add_argument("--put-together", choices=("ddp", "always", "never", "mean", "sum", "each"), default="ddp")
parser.add_argument("--same-samples", action="store_true")
parser.add_argument("--fail", action="store_true")
options = parser.parse_args()
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
inputs, targets = torch.randn(options.samples, 5), torch.randint(0, 3, (options.samples,))
if options.tokens:
    inputs, targets = torch.randn(options.samples, 4, 5), torch.randint(0, 3, (options.samples, 4))
    targets[torch.rand(options.samples, 4) < 0.4] = -100
    targets[:, 0] = 1
data = TensorDataset(inputs, targets)
sampler = None if options.same_samples else DistributedSampler(data, shuffle=False)
loader = DataLoader(data, batch_size=2, sampler=sampler)
own = options.put_together in ("mean", "sum", "each")
trained = model if own else DistributedDataParallel(model)
optimizer = torch.optim.AdamW(trained.parameters(), lr=0.01)


def put_together():
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        if options.put_together == "mean":
            parameter.grad /= world


for _ in range(2):
    window = []
    for i, batch in enumerate(loader):
        window.append(batch)
        if len(window) < options.grad_accum and i + 1 < len(loader):
            continue
        total = torch.tensor(float(sum((y != -100).sum() for _, y in window)))
        if options.divide != "rank":
            dist.all_reduce(total)
            total /= world
        for place, (x, y) in enumerate(window):
            sync = options.put_together == "always" or (place + 1 == len(window) and options.put_together != "never")
            with contextlib.nullcontext() if own or sync else trained.no_sync():
                loss = cross_entropy(trained(x).flatten(0, -2), y.flatten(), reduction="sum")
                divisor = {
                    "micro-batch": (y != -100).sum() * len(window),
                    "twice": total * world,
                    "k": (y != -100).sum() * options.grad_accum,
                }.get(options.divide, total)
                (loss / divisor).backward()
            if options.put_together == "each":
                put_together()
        if options.put_together in ("mean", "sum"):
            put_together()
        optimizer.step()
        optimizer.zero_grad()
        window = []
    if options.fail and rank == 1:
        raise RuntimeError("odd")
dist.destroy_process_group()
