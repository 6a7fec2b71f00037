"""TensorFlow: numpy batches through `tf.data.Dataset.from_generator`, or straight into a `tf.function` as here.

    python examples/frameworks/tensorflow_loop.py --folder out

Started again, it goes on from the last checkpoint. The loader's state is taken in the loop: `from_generator` would read ahead of it.
"""

from __future__ import annotations

import json
from typing import Any

import tensorflow as tf
from points import BATCH, EPOCHS, EVERY, FEATURES, Account, arguments, make_data, report

import penstock as ps

WEIGHTS = tf.Variable(tf.zeros((FEATURES, 1)))


@tf.function(reduce_retracing=True)
def step(x: Any, y: Any) -> None:
    """Take a step of gradient descent."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((tf.matmul(x, WEIGHTS)[:, 0] - y) ** 2)
    WEIGHTS.assign_sub(0.01 * tape.gradient(loss, WEIGHTS))


def main() -> None:
    """Train, or go on."""
    asked = arguments()
    loader = ps.DataLoader(make_data(asked.folder), 2 * BATCH, shuffle=True, num_workers=1, output="numpy")
    account = Account(asked.folder, 0, asked.stop_at)
    path, done = asked.folder / "checkpoint.json", 0
    if path.exists():
        saved = json.loads(path.read_text())
        loader.load_state_dict(saved["loader"])
        done = saved["step"]
        WEIGHTS.assign(saved["weights"])
    for epoch in range(done // len(loader), EPOCHS):
        loader.set_epoch(epoch)  # keeps the place of a loaded state
        for batch in loader:
            account.note(done, batch)
            step(tf.constant(batch["x"]), tf.constant(batch["y"]))
            done += 1
            if done % EVERY == 0:
                parts = {"loader": loader.state_dict(), "step": done, "weights": WEIGHTS.numpy().tolist()}
                path.with_suffix(".tmp").write_text(json.dumps(parts))
                path.with_suffix(".tmp").rename(path)
    print(report(asked.folder, len(loader)), flush=True)


if __name__ == "__main__":
    main()
