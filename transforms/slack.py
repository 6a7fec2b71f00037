"""What the compiled pass and its caller agree on; apart, so that the caller need not import the compiler."""

PRECISION = 22
"""Fraction bits of a weight, as in Pillow: 8 bits of pixel and 22 of weight fit a signed 32-bit sum."""

RECORD = 29
"""Numbers that the arguments of a pass are, beside the scratch memory."""

SLACK = 64
"""Bytes that must exist behind the data read and written."""
