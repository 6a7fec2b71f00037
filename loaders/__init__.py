"""Shards and transforms into batches: the plan, the ring, the workers, and the DataLoader in front of them."""
