import hashlib

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, TensorDataset


class Regressor(torch.nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.body = torch.nn.Linear(6, width)
        self.head = torch.nn.Linear(width, 3)

    def forward(self, x):
        return self.head(F.gelu(self.body(x)))


def training_function(config):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=config["gradient_accumulation_steps"])
    set_seed(config["seed"])
    x = torch.randn(config["samples"], 6)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs(), x[:, 3:].sum(dim=1)], dim=1)
    model = Regressor()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
    train_loader = DataLoader(TensorDataset(x, y), batch_size=config["batch_size"], shuffle=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.97**step)
    model, optimizer, train_loader, scheduler = accelerator.prepare(model, optimizer, train_loader, scheduler)

    for epoch in range(config["epochs"]):
        model.train()
        for x, y in train_loader:
            with accelerator.accumulate(model):
                loss = F.mse_loss(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.8)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        accelerator.print(f"epoch {epoch}: last loss {loss.item():.4f}")
    return accelerator.unwrap_model(model)


if __name__ == "__main__":
    config = {"lr": 4e-3, "epochs": 2, "seed": 9, "batch_size": 3, "samples": 45, "gradient_accumulation_steps": 4}
    trained = training_function(config)
    state = b"".join(p.detach().numpy().tobytes() for p in trained.parameters())
    print("digest", hashlib.sha256(state).hexdigest())
