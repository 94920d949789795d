"""TRL's GRPOTrainer: two completions for each prompt, micro-batches of 2 completions, k = 4."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from datasets import Dataset
from tiny import model, tokenizer, words
from trl import GRPOConfig, GRPOTrainer

parser = argparse.ArgumentParser()
parser.add_argument("--loss", default="dapo")
parser.add_argument("--prompts", type=int, default=12)
parser.add_argument("--batch-size", type=int, default=2)
parser.add_argument("--grad-accum", type=int, default=4)
parser.add_argument("--generation", type=int, help="micro-batches for which completions are drawn at once; k if unset")
options = parser.parse_args()


def reward(completions: list[str], **_: Any) -> list[float]:
    """More letters of the first half of the alphabet, fewer letters."""
    return [sum(letter < "n" for letter in text) - 0.1 * len(text) for text in completions]


with tempfile.TemporaryDirectory() as folder:
    GRPOTrainer(
        model=model(),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=options.batch_size,
            gradient_accumulation_steps=options.grad_accum,
            steps_per_generation=options.generation,
            num_generations=2,
            max_completion_length=12,
            loss_type=options.loss,
            num_train_epochs=1,
            learning_rate=1e-3,
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": words(options.prompts, 2, 4)}),
        processing_class=tokenizer(),
    ).train()
