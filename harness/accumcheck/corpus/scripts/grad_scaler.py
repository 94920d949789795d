"""Two mistakes with a gradient scaler, one of which torch refuses itself.

python grad_scaler.py unscale   # unscales at every micro-batch, updates the scaler at the k-th: torch raises
python grad_scaler.py updates   # two optimizers share a scaler, which is updated behind each of them
python grad_scaler.py           # as it should be
"""

import hashlib
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ACCUMULATION_STEPS = 4


def main(mistake: str) -> None:
    """Train, and print what came out."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 6)
    loader = DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=4, shuffle=True)
    body, head = nn.Sequential(nn.Linear(6, 12), nn.ReLU()), nn.Linear(12, 3)
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (body, head)]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3)
    for _ in range(2):
        for i, (x, y) in enumerate(loader, start=1):
            loss = nn.functional.cross_entropy(head(body(x)), y) / ACCUMULATION_STEPS
            scaler.scale(loss).backward()
            if mistake == "unscale":
                for optimizer in optimizers:
                    scaler.unscale_(optimizer)
            if i % ACCUMULATION_STEPS == 0:
                for optimizer in optimizers:
                    scaler.step(optimizer)
                    if mistake == "updates":
                        scaler.update()
                if mistake != "updates":
                    scaler.update()
                for optimizer in optimizers:
                    optimizer.zero_grad()
    parameters = [*body.parameters(), *head.parameters()]
    print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
