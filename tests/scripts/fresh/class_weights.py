"""Rare classes weigh more.

--norm window divides by the class weights of the whole window, --norm batch leaves it to the loss.
"""

import argparse
import hashlib

import torch
from sklearn.datasets import load_iris
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--norm", default="window")
args = parser.parse_args()

torch.manual_seed(5)
iris = load_iris()
features = torch.tensor(iris.data[:144], dtype=torch.float32)
target = torch.tensor(iris.target[:144])
class_weight = torch.tensor([1.0, 2.5, 6.0])

model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
mean_loss = nn.CrossEntropyLoss(weight=class_weight)
sum_loss = nn.CrossEntropyLoss(weight=class_weight, reduction="sum")
loader = DataLoader(TensorDataset(features, target), batch_size=6, shuffle=True)
k = 4

for _ in range(2):
    weight_in_window = 0.0
    for i, (x, y) in enumerate(loader):
        if args.norm == "window":
            sum_loss(model(x), y).backward()
            weight_in_window += class_weight[y].sum().item()
        else:
            (mean_loss(model(x), y) / k).backward()
        if (i + 1) % k == 0:
            if args.norm == "window":
                for p in model.parameters():
                    p.grad.div_(weight_in_window)
            optimizer.step()
            optimizer.zero_grad()
            weight_in_window = 0.0

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
