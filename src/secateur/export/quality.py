"""What an ONNX file is worth beside the float model, and which of its matrices can be int8 without harm.

Measured on the file: cosine of its vectors to torch's, and retrieval accuracy@1 among held-out pairs. If int8
everywhere falls short, each matrix is made int8 alone; those that hurt most for their size go back to float, as few
as will do.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import onnx

from secateur.config.errors import InputError
from secateur.config.quality import QualitySettings
from secateur.data.cleaning import KeyedRow, clean_rows, drop_duplicates
from secateur.data.corpus import split_rows
from secateur.data.progress import progress_bar
from secateur.data.sources import read_table
from secateur.encoders.encoder import TorchEncoder, embed, tokenize
from secateur.encoders.inference import open_file, run_rows
from secateur.encoders.onnx_graph import LEVELS, build_graph, list_matrices
from secateur.evaluation.encodechka import list_sentences
from secateur.evaluation.probe import FOLDER, PARTS, read_parts
from secateur.evaluation.validation import retrieval

log = logging.getLogger(__name__)

REDUCED = 63  # 2 * 255 * 63 + ... fits the 16 bits in which processors before VNNI add two products up
SMALLEST = 4  # sentences of each kind


@dataclass(frozen=True)
class Texts:
    """The sentences a file is judged by, and others that its int8 matrices are chosen on."""

    judged: list[str]  # of pairs: all English sides, then all Russian
    calibration: list[str]
    pairs: int  # 0: the sentences are no pairs, and retrieval is not measured
    origin: str


def read_pairs(path: Path, count: int) -> Texts:
    """Return the `count` pairs of a .tsv (en, ru) that a run on it holds out first, and the next ones to calibrate on.

    A run holds out the lowest hashes of the English side, whatever share it names, so these are pairs that no run on
    this file has trained on. Raises InputError: unreadable, or too few pairs.
    """
    rows = drop_duplicates(clean_rows(read_table(path, 0.01), min_words=3, max_words=64), {})
    rows.sort(key=place_of)
    held = split_rows(rows, 1.0).held_out
    judged = min(count, 3 * len(held) // 4)
    if judged < SMALLEST:
        raise InputError(f"{path}: {len(held)} pairs are left after cleaning, too few to judge a file by")
    rest = slice(judged, judged + max(SMALLEST, judged // 4))
    return Texts(
        judged=[*held.en[:judged], *held.ru[:judged]],
        calibration=[*held.en[rest], *held.ru[rest]],
        pairs=judged,
        origin=f"{judged} pairs of {path.name}",
    )


def place_of(row: KeyedRow) -> float:
    return row.place


def read_probe_texts(count: int) -> Texts:
    """Return sentences of the probe that comes with secateur, in the order of their hashes; none are pairs."""
    texts = list_sentences({task: read_parts(FOLDER, task) for task in PARTS})
    ordered = sorted(texts, key=lambda text: blake2b(text.encode(), digest_size=8).digest())
    calibration = max(SMALLEST, count // 4)
    judged = ordered[:count]
    origin = f"{len(judged)} sentences of the probe; retrieval needs pairs and is not measured"
    return Texts(judged, ordered[count : count + calibration], 0, origin)


@dataclass(frozen=True)
class Quality:
    """What a file's vectors are worth beside torch's."""

    max_difference: float  # of any component
    cosine: float  # mean over the sentences
    low_cosine: float  # their first percentile
    en_ru: float | None  # retrieval accuracy@1; none: no pairs
    ru_en: float | None


def compare(vectors: np.ndarray, reference: np.ndarray, pairs: int) -> Quality:
    """Return the quality of unit vectors [n, D] beside the reference's; row i is the pair of row `pairs` + i."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1) * np.linalg.norm(reference.astype(np.float64), axis=1)
    cosines = np.minimum((vectors.astype(np.float64) * reference).sum(axis=1) / np.maximum(lengths, 1e-12), 1)
    en, ru = vectors[:pairs], vectors[pairs:]
    return Quality(
        max_difference=float(np.abs(vectors - reference).max()),
        cosine=float(cosines.mean()),
        low_cosine=float(np.quantile(cosines, 0.01)),
        en_ru=retrieval(en, ru) if pairs else None,
        ru_en=retrieval(ru, en) if pairs else None,
    )


@dataclass(frozen=True)
class Reference:
    """What files are measured against: sentences as tokens [n] of [T], and torch's vectors of them [n, D]."""

    rows: list[list[int]]
    pad_id: int
    vectors: np.ndarray
    pairs: int
    threads: int | None

    def measure(self, file: Path | bytes, *, backend: str = "onnx") -> Quality:
        """Return what an ONNX file's vectors are worth, run by ONNX Runtime or by OpenVINO."""
        run, dimension = open_file(file, self.threads, backend=backend)
        vectors = np.empty((len(self.rows), dimension), np.float32)
        for where, found in run_rows(run, self.rows, self.pad_id):
            vectors[where] = found
        return compare(vectors, self.vectors, self.pairs)

    @property
    def float_quality(self) -> Quality:
        """What torch's own vectors are worth: their retrieval, since they differ from themselves by nothing."""
        return compare(self.vectors, self.vectors, self.pairs)


def make_reference(encoder: TorchEncoder, sentences: Sequence[str], pairs: int, threads: int | None) -> Reference:
    rows = [row or [encoder.tokenizer.pad_token_id] for row in tokenize(encoder, sentences)]
    return Reference(rows, encoder.tokenizer.pad_token_id, embed(encoder, sentences), pairs, threads)


def find_shortfall(quality: Quality, float_quality: Quality, limits: QualitySettings) -> str:
    """Return what an int8 file lacks, with the numbers; empty: nothing."""
    if quality.cosine < limits.min_cosine:
        return f"mean cosine {quality.cosine:.7f}, at least {limits.min_cosine} asked"
    if quality.low_cosine < limits.min_low_cosine:
        return f"first percentile of the cosine {quality.low_cosine:.7f}, at least {limits.min_low_cosine} asked"
    for way in ("en_ru", "ru_en"):
        own, whole = getattr(quality, way), getattr(float_quality, way)
        if own is not None and whole - own > limits.max_retrieval_loss + 1e-9:
            name = way.replace("_", "→")
            return (
                f"retrieval accuracy@1 {name} {own:.4f} of {whole:.4f}, at most {limits.max_retrieval_loss} less asked"
            )
    return ""


@dataclass(frozen=True)
class Search:
    """Which matrices of an encoder are int8, tried on calibration sentences."""

    encoder: TorchEncoder
    reference: Reference
    levels: int

    def build(self, int8: Sequence[str]) -> onnx.ModelProto:
        return build_graph(self.encoder, int8, levels=self.levels)

    def measure(self, int8: Sequence[str]) -> Quality:
        return self.reference.measure(self.build(int8).SerializeToString())

    def rank(self, matrices: Sequence[str]) -> list[str]:
        """Return the matrices, that which hurts most for its size first: each is made int8 alone."""
        sizes = measure_sizes(self.build(()), matrices)
        damage = {
            name: 1 - self.measure([name]).cosine
            for name in progress_bar("each matrix as int8", matrices, unit="matrices")
        }
        return sorted(matrices, key=lambda name: damage[name] / sizes[name], reverse=True)


def measure_sizes(model: onnx.ModelProto, matrices: Sequence[str]) -> dict[str, int]:
    """Return how many numbers each matrix of a float model holds."""
    sizes = {weight.name: int(np.prod(weight.dims)) for weight in model.graph.initializer}
    return {name: sizes[name] for name in matrices}


def choose_int8(search: Search, limits: QualitySettings) -> tuple[list[str], list[str]]:
    """Return (matrices in int8, matrices put back to float, the first of them first to go) that hold on calibration.

    With all put back the first list is empty.
    """
    matrices = list_matrices(search.encoder)
    whole = search.reference.float_quality
    flaw = find_shortfall(search.measure(matrices), whole, limits)
    if not flaw:
        return matrices, []
    log.info("int8 everywhere falls short: %s; measuring each of %d matrices alone", flaw, len(matrices))
    order = search.rank(matrices)
    low, high = 0, len(order)  # `low` put back do not suffice, `high` do
    while high - low > 1:
        middle = (low + high) // 2
        if find_shortfall(search.measure(order[middle:]), whole, limits):
            low = middle
        else:
            high = middle
    return order[high:], order[:high]


def pick_levels(limits: QualitySettings, exact: bool) -> int:
    """Return the largest whole number that int8 weights use, `exact` being whether this processor adds up exactly."""
    return LEVELS if (exact if limits.exact is None else limits.exact) else REDUCED
