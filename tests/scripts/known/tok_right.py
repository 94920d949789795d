"""Next-token prediction where each token of an update counts the same, however the rows are dealt out."""

import hashlib
from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

IGNORE = -100
VOCAB = 32
gradient_accumulation_steps = 4


class Sentences(Dataset):
    def __init__(self, size):
        rng = torch.Generator().manual_seed(10)
        lengths = torch.randint(3, 20, (size,), generator=rng).tolist()
        self.sentences = [torch.randint(VOCAB, (length,), generator=rng) for length in lengths]

    def __len__(self):
        return len(self.sentences)

    def __getitem__(self, i):
        return self.sentences[i]


class Collator:
    def __call__(self, sentences):
        shape = (len(sentences), max(s.numel() for s in sentences) - 1)
        batch = {"input_ids": torch.zeros(shape, dtype=torch.long), "labels": torch.full(shape, IGNORE)}
        for row, sentence in enumerate(sentences):
            end = sentence.numel() - 1
            batch["input_ids"][row, :end] = sentence[:-1]
            batch["labels"][row, :end] = sentence[1:]
        return batch


def take(iterator, count):
    return list(islice(iterator, count))


def main():
    torch.manual_seed(6)
    model = nn.Sequential(nn.Embedding(VOCAB, 20), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, VOCAB))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    loader = DataLoader(Sentences(47), batch_size=2, shuffle=True, collate_fn=Collator())

    for _ in range(2):
        batches = iter(loader)
        while group := take(batches, gradient_accumulation_steps):
            num_items = sum(int(b["labels"].ne(IGNORE).sum()) for b in group)
            for b in group:
                logits = model(b["input_ids"])
                each = F.cross_entropy(
                    logits.flatten(0, 1), b["labels"].flatten(), ignore_index=IGNORE, reduction="none"
                )
                (each.sum() / num_items).backward()
            optimizer.step()
            optimizer.zero_grad()

    vector = nn.utils.parameters_to_vector(model.parameters())
    print("digest", hashlib.sha256(vector.detach().numpy().tobytes()).hexdigest())


if __name__ == "__main__":
    main()
