"""Handwritten digits, a two-layer perceptron, gradient accumulation."""

import argparse
import hashlib

import torch
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-b", "--batch-size", type=int, default=8, help="samples per forward pass")
    parser.add_argument("--grad-accum", type=int, default=4, help="forward passes per optimizer step")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.04)
    parser.add_argument("--hidden", type=int, default=48)
    parser.add_argument("--seed", type=int, default=11)
    return parser.parse_args()


def load_data(held_out=300):
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 16.0, dtype=torch.float32)
    labels = torch.tensor(labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:held_out], order[held_out:]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


class Perceptron(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.fc1 = nn.Linear(64, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


def train_one_epoch(model, loader, criterion, optimizer, grad_accum):
    model.train()
    total_loss = 0.0
    optimizer.zero_grad()
    for step, (images, labels) in enumerate(loader):
        loss = criterion(model(images), labels)
        total_loss += loss.item()
        loss = loss / grad_accum
        loss.backward()
        if (step + 1) % grad_accum == 0:
            optimizer.step()
            optimizer.zero_grad()
    return total_loss / len(loader)


@torch.no_grad()
def accuracy(model, loader):
    model.eval()
    right = sum((model(images).argmax(dim=1) == labels).sum().item() for images, labels in loader)
    return right / len(loader.dataset)


def main():
    args = parse_args()
    torch.manual_seed(args.seed)
    train_set, test_set = load_data()
    train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=150)
    model = Perceptron(args.hidden)
    optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    for epoch in range(1, args.epochs + 1):
        loss = train_one_epoch(model, train_loader, nn.CrossEntropyLoss(), optimizer, args.grad_accum)
        print(f"epoch {epoch:2d}  loss {loss:.4f}  test accuracy {accuracy(model, test_loader):.3f}")
    sha = hashlib.sha256()
    for parameter in model.parameters():
        sha.update(parameter.detach().numpy().tobytes())
    print("digest", sha.hexdigest())


if __name__ == "__main__":
    main()
