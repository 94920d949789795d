"""TRL's SFTTrainer: 31 texts, micro-batches of 2, k = 4."""

from __future__ import annotations

import sys
import tempfile

from datasets import Dataset
from tiny import model, tokenizer, words
from trl import SFTConfig, SFTTrainer

SAMPLES = int(sys.argv[1]) if len(sys.argv) > 1 else 31

with tempfile.TemporaryDirectory() as folder:
    SFTTrainer(
        model=model(),
        args=SFTConfig(
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
        train_dataset=Dataset.from_dict({"text": words(SAMPLES)}),
        processing_class=tokenizer(),
    ).train()
