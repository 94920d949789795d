import argparse
import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def get_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gradient_accumulation_steps", type=int, default=4)
    parser.add_argument("--train_batch_size", type=int, default=5)
    return parser.parse_args()


def train(args):
    torch.manual_seed(34)
    x = torch.randn(100, 4)
    y = (x.square().sum(dim=1) > 4).long()
    loader = DataLoader(TensorDataset(x, y), batch_size=args.train_batch_size, shuffle=True)
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    criterion = nn.CrossEntropyLoss()
    for _ in range(2):
        for step, batch in enumerate(loader):
            inputs, labels = batch
            loss = criterion(model(inputs), labels)
            loss = loss / args.gradient_accumulation_steps
            loss.backward()
            if step + 1 % args.gradient_accumulation_steps:
                optimizer.step()
                optimizer.zero_grad()
    return model


if __name__ == "__main__":
    final = train(get_args())
    print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in final.parameters())).hexdigest())
