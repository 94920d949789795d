"""Goes on from a checkpoint within an epoch, and counts what it skips in updates where the loader counts micro-batches.

python resume.py           # skips as many micro-batches as there were updates: most are used twice
python resume.py --right   # skips k times as many
"""

import copy
import hashlib
import sys
from itertools import islice

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ACCUMULATION_STEPS = 4
UPDATES_BEFORE = 4


def main(*, right: bool) -> None:
    """Train, stop, go on, and print what came out."""
    torch.manual_seed(0)
    inputs = torch.randn(96, 6)
    data = TensorDataset(inputs, inputs[:, :2].sum(1, keepdim=True))
    state: dict[str, torch.Tensor] | None = None
    model = nn.Linear(6, 1)
    done = 0
    for life in range(2):
        model = nn.Linear(6, 1)
        if state is not None:
            model.load_state_dict(state)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(1))
        skip = done * (ACCUMULATION_STEPS if right else 1)
        for i, (x, y) in enumerate(islice(loader, skip, None), start=1):
            (nn.functional.mse_loss(model(x), y) / ACCUMULATION_STEPS).backward()
            if i % ACCUMULATION_STEPS == 0:
                optimizer.step()
                optimizer.zero_grad()
                done += 1
                if life == 0 and done == UPDATES_BEFORE:
                    break
        state = copy.deepcopy(model.state_dict())
    print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())


if __name__ == "__main__":
    main(right="--right" in sys.argv)
