"""Experiments and the demo: one question per file, run as programs from the repository root (`python -m benchmarks.demo`)."""
