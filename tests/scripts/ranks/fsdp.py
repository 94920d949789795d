"""Training with shards of parameters on each rank, by both kinds of FSDP."""

import argparse
import contextlib

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--grad-accum", type=int, default=4)
parser.add_argument("--kind", choices=("fully_shard", "flat", "original"), default="fully_shard")
parser.add_argument("--divide", choices=("window", "k"), default="window")
options = parser.parse_args()
dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
if options.kind == "fully_shard":
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (model[0], model[2], model):
        fully_shard(part, mesh=mesh)
else:
    model = FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=options.kind == "original")


def synchronised(last):
    if options.kind == "fully_shard":
        model.set_requires_gradient_sync(last)
        return contextlib.nullcontext()
    return contextlib.nullcontext() if last else model.no_sync()


data = TensorDataset(torch.randn(52, 5), torch.randint(0, 3, (52,)))
loader = DataLoader(data, batch_size=2, sampler=DistributedSampler(data, shuffle=False))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
k = options.grad_accum
for _ in range(2):
    for i, (x, y) in enumerate(loader):
        last = (i + 1) % k == 0 or i + 1 == len(loader)
        window = k if options.divide == "k" else min(k, len(loader) - i // k * k)
        with synchronised(last):
            (cross_entropy(model(x), y) / window).backward()
        if last:
            optimizer.step()
            optimizer.zero_grad()
dist.destroy_process_group()
