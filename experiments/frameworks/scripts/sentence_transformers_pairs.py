"""sentence-transformers' trainer: 31 pairs with a score, micro-batches of 2, k = 4."""

from __future__ import annotations

import sys
import tempfile

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import CosineSimilarityLoss
from sentence_transformers.models import Pooling, Transformer
from tiny import tokenizer, words
from transformers import BertConfig, BertModel, set_seed

SAMPLES = int(sys.argv[1]) if len(sys.argv) > 1 else 31

set_seed(0)
texts = words(2 * SAMPLES)
pairs = {
    "sentence1": texts[::2],
    "sentence2": texts[1::2],
    "score": [len({*one} & {*two}) / 26 for one, two in zip(texts[::2], texts[1::2], strict=True)],
}
with tempfile.TemporaryDirectory() as folder:
    BertModel(
        BertConfig(
            vocab_size=29,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    words_to_vectors = Transformer(folder)
    model = SentenceTransformer(modules=[words_to_vectors, Pooling(16)], device="cpu")
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            num_train_epochs=2,
            learning_rate=1e-3,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict(pairs),
        loss=CosineSimilarityLoss(model),
    ).train()
