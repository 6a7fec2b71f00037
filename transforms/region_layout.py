"""What decoding a part of a JPEG knows of libjpeg: where its struct's fields lie, and how our memory around it is divided.

The struct is `jpeg_decompress_struct` as libjpeg-turbo's library 62 has it with 64-bit pointers (jpeglib.h, JPEG_LIB_VERSION 62). The library compares
version and size when a decoder is created and refuses a struct of another size; what that cannot tell (the error manager's layout, say) is found by
decoding a small picture before the first real one (`region.available`).
"""

VERSION = 62
CINFO_BYTES = 632

CINFO, ERROR, JUMP, CROP, ROWS = 0, 1024, 2048, 3072, 3136
"""Where the decoder's memory holds: the struct, the error manager, the jump buffer, a part's first column and columns, pointers to rows."""

WORK_BYTES = 4096
SCANS = -4
"""What the kernel answers for a JPEG of several scans, all of which libjpeg reads and holds before the first row comes, unless it may have them."""

AHEAD = 8
"""Rows that one call may return."""

COMPONENTS, COLOURS, OUT_COLOURS, SCALE, OUTPUT_WIDTH, OUTPUT_HEIGHT = 56, 60, 64, 68, 136, 140
"""Bytes into the struct."""

WARNINGS = ERROR + 128
RGB, YCC = 2, 3
"""Colour spaces, as libjpeg numbers them."""

MARGIN = 8
"""Columns decoded on either side of a part: at the edge of what is decoded, chroma is interpolated as at the edge of the image."""

FUNCTIONS = (
    "jpeg_std_error",
    "jpeg_CreateDecompress",
    "jpeg_mem_src",
    "jpeg_read_header",
    "jpeg_start_decompress",
    "jpeg_crop_scanline",
    "jpeg_skip_scanlines",
    "jpeg_read_scanlines",
    "jpeg_destroy_decompress",
    "jpeg_has_multiple_scans",
)
STD_ERROR, CREATE, MEM_SRC, READ_HEADER, START, CROP_SCANLINE, SKIP_SCANLINES, READ_SCANLINES, DESTROY, MANY_SCANS = range(10)
"""Places of the functions in the table that kernels are given."""
