"""Every parameter has an optimizer of its own; --forget-biases clears the matrices only."""

import argparse
import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--forget-biases", action="store_true")
args = parser.parse_args()

torch.manual_seed(19)
x = torch.randn(84, 6)
y = torch.randint(0, 4, (84,))
model = nn.Sequential(nn.Linear(6, 14), nn.ReLU(), nn.Linear(14, 4))
optimizers = {
    name: torch.optim.SGD([p], lr=0.1 if name.endswith("weight") else 0.02) for name, p in model.named_parameters()
}
to_clear = [o for name, o in optimizers.items() if not (args.forget_biases and name.endswith("bias"))]
loader = DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True)
steps_per_update = 3

for _ in range(2):
    for n, (inputs, labels) in enumerate(loader, 1):
        loss = nn.functional.nll_loss(model(inputs).log_softmax(1), labels)
        torch.autograd.backward(loss / steps_per_update)
        if n % steps_per_update == 0:
            for o in optimizers.values():
                o.step()
            for o in to_clear:
                o.zero_grad()

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
