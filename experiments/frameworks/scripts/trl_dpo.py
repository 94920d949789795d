"""TRL's DPOTrainer: 31 pairs, micro-batches of 2, k = 4."""

from __future__ import annotations

import sys
import tempfile

from datasets import Dataset
from tiny import model, tokenizer, words
from trl import DPOConfig, DPOTrainer

SAMPLES = int(sys.argv[1]) if len(sys.argv) > 1 else 31

texts = words(3 * SAMPLES)
pairs = {"prompt": texts[::3], "chosen": texts[1::3], "rejected": texts[2::3]}
with tempfile.TemporaryDirectory() as folder:
    DPOTrainer(
        model=model(),
        ref_model=model(),
        args=DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            num_train_epochs=2,
            learning_rate=1e-3,
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict(pairs),
        processing_class=tokenizer(),
    ).train()
