"""A small convolutional network with batch normalisation, on scikit-learn's digits."""

import hashlib
import os

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

batch_size = int(os.environ.get("B", "4"))
accum = int(os.environ.get("K", "4"))


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(6 * 3 * 3, 10)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


torch.manual_seed(44)
digits = load_digits()
images = torch.tensor(digits.images[:160], dtype=torch.float32).unsqueeze(1) / 16
targets = torch.tensor(digits.target[:160])
loader = DataLoader(TensorDataset(images, targets), batch_size=batch_size, shuffle=True)
model = ConvNet()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

model.train()
for _ in range(2):
    for i, (image, target) in enumerate(loader):
        loss = criterion(model(image), target) / accum
        loss.backward()
        if (i + 1) % accum == 0:
            optimizer.step()
            optimizer.zero_grad()

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
