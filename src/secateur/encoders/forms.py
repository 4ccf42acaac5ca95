"""The forms that a unit vector is stored in: its first coordinates alone, int8 codes, bits.

A vector of D float32 numbers takes 4 D bytes, d int8 codes take d, d bits d / 8. What the codes are made with is found
by `secateur vectors` on sentences and lies in the model's folder, config_vectors.json, for each length d:

    code = round(v / s), -128 to 127     s: one number for all coordinates, so the cosine of codes is that of vectors
    bit  = v > c                         c: the mean of each coordinate; bits are compared by how many are equal

Both are the codes of sentence-transformers' `quantize_embeddings`: int8 with the `ranges` of that file, which make
its floor((v - start) / step) - 128 a rounding to the nearest; bits of v - c. A range of its own for each coordinate,
as that library finds it, is finer, but its codes compare with each other only when they are turned back into numbers.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from secateur.config.errors import InputError
from secateur.data.files import write_json

CALIBRATION = "config_vectors.json"
Output = Literal["float32", "int8", "binary", "ubinary"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
QUANTILE = 0.9999  # of the calibration's coordinates are within the codes' range; the others are clipped


@dataclass(frozen=True)
class Calibration:
    """What codes of vectors of one length d are made with, float32: ranges [2, d], the first and last number that an
    int8 code stands for; centres [d], above which a bit is 1."""

    ranges: np.ndarray
    centres: np.ndarray


def shorten(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """Return the first coordinates of vectors [n, D], scaled to unit length: float32 [n, dimensions]."""
    return vectors if dimensions == vectors.shape[1] else scale_rows(vectors[:, :dimensions])


def scale_rows(rows: np.ndarray) -> np.ndarray:
    """Return rows [n, D] scaled to unit length, in their own number format; rows of zeros stay so."""
    units: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return units


def calibrate(vectors: np.ndarray) -> Calibration:
    """Return what codes of vectors like these [n, d] are made with."""
    step = float(np.quantile(np.abs(vectors), QUANTILE)) / 127
    ends = np.array([-128.5, 126.5]) * step  # 255 steps; the first code, -128, is that of -128.5 to -127.5 steps
    ranges = np.repeat(ends[:, None], vectors.shape[1], axis=1)
    return Calibration(ranges.astype(np.float32), vectors.mean(axis=0, dtype=np.float64).astype(np.float32))


def quantise(vectors: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Return int8 codes [n, d], as sentence-transformers' `quantize_embeddings` with these ranges."""
    starts, ends = calibration.ranges
    steps = (ends - starts) / 255
    codes: np.ndarray = np.clip(np.floor((vectors - starts) / steps), 0, 255) - 128
    return codes.astype(np.int8)


def pack_bits(vectors: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Return uint8 [n, d / 8 rounded up]: a bit for each coordinate, the first in the first byte's highest place."""
    return np.packbits(vectors > calibration.centres, axis=-1)


def offset_bits(vectors: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Return the bytes of `pack_bits` less 128 as int8: what sentence-transformers calls "binary"."""
    return (pack_bits(vectors, calibration).astype(np.int16) - 128).astype(np.int8)


MAKERS: dict[str, Callable[[np.ndarray, Calibration], np.ndarray]] = {
    "int8": quantise,
    "binary": offset_bits,
    "ubinary": pack_bits,
}


def open_form(folder: Path, dimension: int, dimensions: int | None, output: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return what turns unit vectors [n, dimension] of a folder's model into the form asked for.

    `dimensions`: how many coordinates (all); `output`: one of OUTPUTS. Raises InputError: more coordinates than there
    are, no such output, or codes that the folder has no calibration for.
    """
    if dimensions is not None and (isinstance(dimensions, bool) or not isinstance(dimensions, int)):
        raise InputError(f"dimensions: {dimensions!r:.40} is not a whole number")
    length = dimension if dimensions is None else dimensions
    if not 1 <= length <= dimension:
        raise InputError(f"dimensions: {length} is not in 1 to {dimension}, the length of the model's vectors")
    if output not in OUTPUTS:
        raise InputError(f"output: {output!r:.40} is none of {', '.join(OUTPUTS)}")
    if output == "float32":
        return partial(shorten, dimensions=length)
    calibrations = read_calibrations(folder, dimension)
    if length not in calibrations:
        known = ", ".join(map(str, calibrations))
        raise InputError(f"{folder / CALIBRATION}: is for vectors of {known} numbers, not of {length}")
    return partial(make_codes, calibration=calibrations[length], output=output)


def make_codes(vectors: np.ndarray, *, calibration: Calibration, output: str) -> np.ndarray:
    """Return the codes of the first coordinates of unit vectors [n, D], as many as the calibration is for."""
    return MAKERS[output](shorten(vectors, len(calibration.centres)), calibration)


def as_rows(codes: np.ndarray, output: str, length: int) -> np.ndarray:
    """Return float32 rows whose products are the similarities of codes: cosines, or for bits equal less unequal ones.

    `length`: how many coordinates a code stands for.
    """
    if output in ("float32", "int8"):
        return scale_rows(codes.astype(np.float32))
    packed = codes if output == "ubinary" else (codes.astype(np.int16) + 128).astype(np.uint8)
    return np.unpackbits(packed, axis=-1, count=length).astype(np.float32) * 2 - 1


def write_calibrations(calibrations: Mapping[int, Calibration], folder: Path, *, sentences: int) -> None:
    """Write config_vectors.json into a model's folder; `sentences` says how many it comes from."""
    lengths = {
        str(length): {"ranges": each.ranges.tolist(), "centres": each.centres.tolist()}
        for length, each in calibrations.items()
    }
    write_json(folder / CALIBRATION, {"sentences": sentences, "lengths": lengths}, indent=None)


def read_calibrations(folder: Path, dimension: int) -> dict[int, Calibration]:
    """Return what config_vectors.json in a model's folder says, by length.

    Raises InputError: no such file, or one that is not of a model whose vectors have this dimension.
    """
    path = folder / CALIBRATION
    again = "`secateur vectors` saves a model with one"
    try:
        lengths = json.loads(path.read_text(encoding="utf-8"))["lengths"]
        found = {int(length): read_calibration(int(length), each) for length, each in lengths.items()}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, so its vectors have no int8 or binary form; {again}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a calibration of vectors ({error!r:.120}); {again}") from None
    if dimension not in found:
        raise InputError(f"{path}: is not of this model, whose vectors have {dimension} numbers; {again}")
    return found


def read_calibration(length: int, data: Mapping[str, Any]) -> Calibration:
    """Return one length's calibration. Raises ValueError, KeyError or TypeError: it is anything else."""
    ranges, centres = (np.asarray(data[key], np.float32) for key in ("ranges", "centres"))
    if ranges.shape != (2, length) or centres.shape != (length,):
        raise ValueError(f"{length}: ranges of {ranges.shape}, centres of {centres.shape}")
    if not (np.isfinite(ranges).all() and np.isfinite(centres).all() and (ranges[1] > ranges[0]).all()):
        raise ValueError(f"{length}: a range that is empty, or numbers that are not finite")
    return Calibration(ranges, centres)
