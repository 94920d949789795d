"""Fine-tunes (here: trains from scratch) a small BERT to classify sequences, with the Trainer."""

import os
import tempfile

from hf_common import VOCABULARY, WIDTH, Sequences, print_digest
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

set_seed(3)
model = BertForSequenceClassification(
    BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=WIDTH,
        num_labels=4,
    )
)

with tempfile.TemporaryDirectory() as directory:
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=directory,
            num_train_epochs=2,
            per_device_train_batch_size=int(os.environ.get("B", "2")),
            gradient_accumulation_steps=int(os.environ.get("K", "4")),
            learning_rate=1e-3,
            eval_strategy="steps",
            eval_steps=4,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=Sequences(53, seed=1, classes=4),
        eval_dataset=Sequences(12, seed=2, classes=4),
    )
    trainer.train()
print_digest(model)
