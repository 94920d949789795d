"""What the scripts with Hugging Face models share: made-up token sequences, and the last line."""

import hashlib

import torch
from torch.utils.data import Dataset

VOCABULARY = 48
WIDTH = 14
PADDING = 0


class Sequences(Dataset):
    """Sequences of 3 to WIDTH tokens, padded to WIDTH; labels are the tokens themselves, or one class for each."""

    def __init__(self, size, seed, classes=None):
        rng = torch.Generator().manual_seed(seed)
        self.rows = []
        for _ in range(size):
            length = torch.randint(3, WIDTH + 1, (), generator=rng).item()
            tokens = torch.full((WIDTH,), PADDING)
            tokens[:length] = torch.randint(4, VOCABULARY, (length,), generator=rng)
            mask = torch.zeros(WIDTH, dtype=torch.long)
            mask[:length] = 1
            labels = tokens.masked_fill(mask == 0, -100) if classes is None else tokens[0] % classes
            self.rows.append({"input_ids": tokens, "attention_mask": mask, "labels": labels})

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def print_digest(model):
    sha = hashlib.sha256()
    for parameter in model.parameters():
        sha.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    print("digest", sha.hexdigest())
