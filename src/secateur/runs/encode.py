"""Lines of text to a .npy file of unit vectors."""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

import numpy as np

from secateur.config.errors import InputError
from secateur.data.counting import say_count
from secateur.data.files import whole_file
from secateur.data.texts import find_strange
from secateur.encoders.inference import Encoder

log = logging.getLogger(__name__)

SPOOLED = 2**26  # bytes of vectors held in memory before they go to a temporary file


def encode_lines(
    encoder: Encoder,
    source: BinaryIO,
    out: Path | BinaryIO,
    *,
    prompt: str | None = None,
    prompt_name: str | None = None,
) -> int:
    """Write the unit vector of each line of UTF-8 text as a float32 .npy array [lines, dimension]; return how many.

    `prompt`, or the one called `prompt_name`, is put before every line (the model's default prompt). The input may be
    larger than memory. An .npy begins with its number of rows, so a stream gets the array when the last line is read,
    until then kept in a temporary file (in TMPDIR). Raises InputError for a line that is no text: nothing is written
    then.
    """
    sentences = (read_line(number, line) for number, line in enumerate(source, start=1))
    stream = encoder.stream(sentences, prompt=prompt, prompt_name=prompt_name, progress="encode")
    if isinstance(out, Path):
        with whole_file(out) as temporary, temporary.open("wb") as file:
            count = write_vectors(stream, encoder.dimension, file)
        log.info("%s: %s of %s", out, say_count(count, "vector"), say_count(encoder.dimension, "dimension"))
        return count
    with SpooledTemporaryFile(max_size=SPOOLED) as spool:
        count = write_vectors(stream, encoder.dimension, cast(BinaryIO, spool))
        spool.seek(0)
        shutil.copyfileobj(spool, out)
    out.flush()
    return count


def write_vectors(stream: Iterable[np.ndarray], dimension: int, file: BinaryIO) -> int:
    """Write an .npy whose header is put right at the end: NumPy leaves room in it for a longer first axis."""
    count = 0
    write_header(file, count, dimension)
    for vectors in stream:
        file.write(vectors.tobytes())
        count += len(vectors)
    file.seek(0)
    write_header(file, count, dimension)
    return count


def write_header(file: BinaryIO, rows: int, dimension: int) -> None:
    header = {"descr": np.dtype(np.float32).newbyteorder("<").str, "fortran_order": False, "shape": (rows, dimension)}
    np.lib.format.write_array_header_1_0(file, header)


def read_line(number: int, line: bytes) -> str:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError(f"input: line {number} is not UTF-8 text") from None
    flaw = find_strange(text)
    if flaw:
        raise InputError(f"input: line {number} {flaw}")
    return text
