"""A character model. The loss is summed, and the gradient is divided by the tokens seen."""

import argparse
import hashlib

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

TEXT = """the quick brown fox jumps over the lazy dog while seven grey geese
watch a boat drift slowly past the old mill and nobody says a word
until the miller opens his window and asks what day it is"""


def collate(lines):
    x = pad_sequence([line[:-1] for line in lines], batch_first=True)
    y = pad_sequence([line[1:] for line in lines], batch_first=True, padding_value=-100)
    return x, y


class CharModel(nn.Module):
    def __init__(self, vocab, width=24):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, vocab)

    def forward(self, x):
        return self.out(self.rnn(self.embed(x))[0])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--accumulation-steps", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(11)

    letters = sorted(set(TEXT))
    words = TEXT.split()
    lines = [
        torch.tensor([letters.index(c) for c in " ".join(words[i : i + 1 + i % 4])] + [0]) for i in range(len(words))
    ]
    lines = lines[:34]
    loader = DataLoader(lines, batch_size=4, shuffle=True, collate_fn=collate)
    model = CharModel(len(letters))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    criterion = nn.CrossEntropyLoss(reduction="sum", ignore_index=-100)

    for _ in range(2):
        tokens = 0
        for i, (x, y) in enumerate(loader):
            loss = criterion(model(x).flatten(0, 1), y.flatten())
            loss.backward()
            tokens += int((y != -100).sum())
            if (i + 1) % args.accumulation_steps == 0 or (i + 1) == len(loader):
                for p in model.parameters():
                    p.grad /= tokens
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
                tokens = 0

    digest = hashlib.sha256()
    for p in model.parameters():
        digest.update(p.detach().numpy().tobytes())
    print("digest", digest.hexdigest())


if __name__ == "__main__":
    main()
