import argparse
import hashlib

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gradient_accumulation_steps", type=int, default=4)
    parser.add_argument("--per_device_batch_size", type=int, default=3)
    parser.add_argument("--num_epochs", type=int, default=2)
    args = parser.parse_args()

    accelerator = Accelerator(gradient_accumulation_steps=args.gradient_accumulation_steps, cpu=True)
    torch.manual_seed(15)
    tokens = torch.randint(0, 20, (72, 6))
    sentiment = (tokens.float().mean(dim=1) > 9.5).long()
    model = nn.Sequential(nn.EmbeddingBag(20, 8), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    dataset = TensorDataset(tokens, sentiment)
    train_dataloader = DataLoader(dataset, batch_size=args.per_device_batch_size, shuffle=True)
    model, optimizer, train_dataloader = accelerator.prepare(model, optimizer, train_dataloader)

    model.train()
    for _ in range(args.num_epochs):
        for input_ids, labels in train_dataloader:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(input_ids), labels)
                loss = loss / args.gradient_accumulation_steps
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()

    sha = hashlib.sha256()
    for parameter in accelerator.unwrap_model(model).parameters():
        sha.update(parameter.detach().numpy().tobytes())
    print("digest", sha.hexdigest())


if __name__ == "__main__":
    main()
