# Regression on tensors in memory: slices of a permutation, no DataLoader.
import hashlib

import torch

torch.manual_seed(50)
grad_accum = 4
bs = 5
n = 120

inputs = torch.randn(n, 7)
outputs = torch.sin(inputs).sum(dim=1, keepdim=True)

net = torch.nn.Sequential(torch.nn.Linear(7, 24), torch.nn.Tanh(), torch.nn.Linear(24, 1))
sgd = torch.optim.SGD(net.parameters(), lr=5e-3)

for _ in range(2):
    shuffled = torch.randperm(n)
    for b in range(n // bs):
        pick = shuffled[b * bs : (b + 1) * bs]
        error = net(inputs[pick]) - outputs[pick]
        loss = error.square().mean()
        loss.backward()
        if (b + 1) % grad_accum == 0:
            sgd.step()
            sgd.zero_grad()

print("digest", hashlib.sha256(b"".join(p.data.numpy().tobytes() for p in net.parameters())).hexdigest())
