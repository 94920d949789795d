"""Mixed precision by the book: scale, accumulate, then unscale, clip and step once."""

import hashlib

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

GRAD_ACCUM_STEPS = 4
MAX_NORM = 0.2


class TinyConvNet(nn.Module):
    def __init__(self, classes=6):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(6, 12, kernel_size=3, stride=2)
        self.fc = nn.Linear(12, classes)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        return self.fc(x.mean(dim=(2, 3)))


torch.manual_seed(2)
images = torch.randn(80, 3, 10, 10)
classes = torch.randint(0, 6, (80,))
loader = DataLoader(TensorDataset(images, classes), batch_size=5, shuffle=True)
net = TinyConvNet()
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)

for _epoch in range(2):
    for step, (image, label) in enumerate(loader, start=1):
        with torch.autocast(device_type="cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(net(image), label, label_smoothing=0.05)
            loss = loss / GRAD_ACCUM_STEPS
        scaler.scale(loss).backward()
        if step % GRAD_ACCUM_STEPS == 0:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), MAX_NORM)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)

digest = hashlib.sha256(b"".join(w.detach().numpy().tobytes() for w in net.parameters())).hexdigest()
print(f"digest {digest}")
