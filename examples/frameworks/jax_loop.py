"""JAX: batches are numpy arrays in the memory they were written to, a state is JSON, and nothing of torch's is touched by the loop.

    python examples/frameworks/jax_loop.py --folder out

Started again, it goes on from the last checkpoint. On several hosts the loader takes its place from `JAX_PROCESS_ID`, or from `topology=(rank, hosts)`.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from points import BATCH, EPOCHS, EVERY, FEATURES, Account, arguments, make_data, report

import penstock as ps


@jax.jit
def step(weights: Any, x: Any, y: Any) -> Any:
    """Return the weights after a step of gradient descent."""
    return weights - 0.01 * jax.grad(lambda w: jnp.mean((x @ w - y) ** 2))(weights)


def main() -> None:
    """Train, or go on."""
    asked = arguments()
    loader = ps.DataLoader(make_data(asked.folder), 2 * BATCH, shuffle=True, num_workers=1, output="numpy")
    account = Account(asked.folder, 0, asked.stop_at)
    path, done, weights = asked.folder / "checkpoint.json", 0, jnp.zeros(FEATURES)
    if path.exists():
        saved = json.loads(path.read_text())
        loader.load_state_dict(saved["loader"])
        done, weights = saved["step"], jnp.array(saved["weights"])
    for epoch in range(done // len(loader), EPOCHS):
        loader.set_epoch(epoch)  # keeps the place of a loaded state
        for batch in loader:
            account.note(done, batch)
            weights = step(weights, jnp.array(batch["x"]), jnp.array(batch["y"]))  # a copy: jnp.asarray may keep the loader's memory
            done += 1
            if done % EVERY == 0:
                parts = {"loader": loader.state_dict(), "step": done, "weights": np.asarray(weights).tolist()}
                path.with_suffix(".tmp").write_text(json.dumps(parts))
                path.with_suffix(".tmp").rename(path)
    print(report(asked.folder, len(loader)), flush=True)


if __name__ == "__main__":
    main()
