"""Keras on top of torch; the optimizer accumulates by itself."""

import hashlib
import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np

keras.utils.set_random_seed(20)
rng = np.random.default_rng(20)
features = rng.normal(size=(96, 6)).astype("float32")
labels = (features[:, 0] > 0).astype("int64") + (features[:, 1] > 0)

inputs = keras.Input(shape=(6,))
hidden = keras.layers.Dense(12, activation="tanh")(inputs)
model = keras.Model(inputs, keras.layers.Dense(3)(hidden))
model.compile(
    optimizer=keras.optimizers.SGD(learning_rate=0.05, gradient_accumulation_steps=4),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
model.fit(features, labels, batch_size=4, epochs=2, verbose=0)
print("digest", hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest())
