"""Lightning with manual optimization."""

import hashlib
import logging
import warnings

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(L.LightningModule):
    def __init__(self, accumulate=4):
        super().__init__()
        self.automatic_optimization = False
        self.accumulate = accumulate
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch, batch_idx):
        x, y = batch
        opt = self.optimizers()
        last = self.trainer.num_training_batches - 1
        first_of_window = batch_idx - batch_idx % self.accumulate
        length = min(self.accumulate, last + 1 - first_of_window)
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.manual_backward(loss / length)
        if batch_idx == first_of_window + length - 1:
            self.clip_gradients(opt, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
            opt.step()
            opt.zero_grad()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


L.seed_everything(5, verbose=False)
features = torch.randn(105, 8)
data = TensorDataset(features, features[:, :3].argmax(1))
model = Classifier()
trainer = L.Trainer(
    max_epochs=2,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, DataLoader(data, batch_size=7, shuffle=True))
print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
