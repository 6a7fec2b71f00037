"""The benchmark of ours against torch's over datasets of the user's own runs, small; its figures are not looked at."""

from __future__ import annotations

from benchmarks import dropin, harness


def test_both_loaders_are_measured() -> None:
    """Both classes run in processes of their own, and every case has its ratios."""
    configs = dropin.configurations(workers=1, seconds=0.05)
    assert len(configs) == 2 * len(dropin.BOUNDS)
    runs = {name: harness.interleaved({name: config}, rounds=1)[name] for name, config in configs.items() if "an int" in name}
    found = dropin.summary({name: runs[f"an int | {config['loader']}"] for name, config in configs.items()})
    assert found.keys() == dropin.BOUNDS.keys()
    assert all(row["ratio"] > 0 and row["memory"] > 0 for row in found.values())
    dropin.show(found)
