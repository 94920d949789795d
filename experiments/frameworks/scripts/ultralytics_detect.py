"""Ultralytics' detection trainer: 15 images, batches of 2, a nominal batch of 8 (k = 4).

The argument is the number of epochs of warm-up.
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
from ultralytics import YOLO

WARMUP = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
IMAGES = int(sys.argv[2]) if len(sys.argv) > 2 else 15
NETWORK = """
nc: 1
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[2, 3], 1, Detect, [nc]]
"""

source = random.Random(0)
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    (folder / "network.yaml").write_text(NETWORK)
    for kind in ("train", "val"):
        for part in ("images", "labels"):
            (folder / part / kind).mkdir(parents=True)
        for i in range(IMAGES if kind == "train" else 2):
            image = Image.new("RGB", (64, 64), tuple(source.randrange(256) for _ in range(3)))
            boxes = range(source.randint(1, 4))
            lines = [f"0 {source.uniform(0.3, 0.7):.3f} {source.uniform(0.3, 0.7):.3f} 0.4 0.4" for _ in boxes]
            image.save(folder / "images" / kind / f"{i}.png")
            (folder / "labels" / kind / f"{i}.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: {{0: box}}\n")
    YOLO(str(folder / "network.yaml"), task="detect").train(
        data=str(folder / "data.yaml"), project=str(folder), epochs=2, batch=2, nbs=8, imgsz=64, warmup_epochs=WARMUP,
        optimizer="SGD", lr0=0.001, amp=False, device="cpu", workers=0, val=False, plots=False, save=False, mosaic=0.0,
        close_mosaic=0, seed=0, verbose=False,
    )  # fmt: skip
