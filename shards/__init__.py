"""Bytes and rows: shard formats, the manifest and its commits, reading and writing. Knows files, not processes, not torch."""
