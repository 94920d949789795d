import os
import tempfile

import transformers
from hf_common import VOCABULARY, WIDTH, Sequences, print_digest


def build_model():
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=WIDTH,
        n_embd=24,
        n_layer=2,
        n_head=3,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.GPT2LMHeadModel(config)


def main():
    transformers.set_seed(12)
    model = build_model()
    with tempfile.TemporaryDirectory() as out:
        arguments = transformers.TrainingArguments(
            output_dir=out,
            per_device_train_batch_size=int(os.environ.get("B", "2")),
            gradient_accumulation_steps=int(os.environ.get("K", "4")),
            num_train_epochs=2,
            learning_rate=1e-3,
            warmup_steps=3,
            weight_decay=0.01,
            save_strategy="epoch",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        transformers.Trainer(model=model, args=arguments, train_dataset=Sequences(37, seed=6)).train()
    print_digest(model)


if __name__ == "__main__":
    main()
