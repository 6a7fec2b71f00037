"""Pure functions on samples and batches: ops, the chain that checks and fuses them, random numbers, kernels."""
