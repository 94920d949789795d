"""Ultralytics' classification trainer: 16 images, a nominal batch of 8, BatchNorm with fixed statistics.

The argument is the batch size.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

os.environ["YOLO_OFFLINE"] = "true"
os.environ["YOLO_AUTOINSTALL"] = "false"
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from ultralytics import YOLO
from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.nn.tasks import ClassificationModel

BATCH = int(sys.argv[1]) if len(sys.argv) > 1 else 2
NETWORK = """
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
head:
  - [-1, 1, Classify, [nc]]
"""


class Fixed(nn.BatchNorm2d):
    """Normalises by its running statistics in training too, as those of a micro-batch couple its samples."""

    def forward(self, values: Tensor) -> Tensor:
        """As in evaluation."""
        return F.batch_norm(values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Trainer(ClassificationTrainer):
    """Trains a model whose BatchNorm has fixed statistics."""

    def get_model(self, *arguments: object, **settings: object) -> ClassificationModel:
        """The network above."""
        model: ClassificationModel = super().get_model(*arguments, **settings)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = Fixed
        return model


source = random.Random(0)
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    (folder / "network.yaml").write_text(NETWORK)
    for kind, count in (("train", 8), ("val", 1)):
        for label in ("a", "b"):
            (folder / "data" / kind / label).mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (32, 32), tuple(source.randrange(256) for _ in range(3)))
                image.save(folder / "data" / kind / label / f"{i}.png")
    YOLO(str(folder / "network.yaml"), task="classify").train(
        trainer=Trainer, data=str(folder / "data"), project=str(folder), epochs=2, batch=BATCH, nbs=8, imgsz=32,
        warmup_epochs=0, optimizer="SGD", lr0=0.001, amp=False, device="cpu", workers=0, val=False, plots=False,
        save=False, seed=0, verbose=False, dropout=0.0, scale=0.0, fliplr=0.0, hsv_h=0.0, hsv_s=0.0, hsv_v=0.0,
        erasing=0.0, auto_augment=None,
    )  # fmt: skip
