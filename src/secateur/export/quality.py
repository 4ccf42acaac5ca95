"""What an ONNX file is worth beside the float model, and which of its matrices can be int8 without harm.

Measured on the file: cosine of its vectors to torch's, and retrieval accuracy@1 among held-out pairs. If int8
everywhere falls short, each matrix is made int8 alone; those that hurt most for their size go back to float, as few
as will do. Of a file that is kept it is also measured whether a sentence's vector depends on what else is in its batch.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import onnx

from secateur.config.corpus import CorpusSettings
from secateur.config.errors import InputError
from secateur.config.quality import QualitySettings
from secateur.data.cleaning import clean_rows, drop_duplicates
from secateur.data.corpus import split_rows
from secateur.data.counting import say_count
from secateur.data.progress import progress_bar
from secateur.data.sources import read_table
from secateur.encoders.encoder import TorchEncoder, embed, tokenize
from secateur.encoders.inference import run_rows
from secateur.encoders.machine import REDUCED_LEVELS
from secateur.encoders.onnx_graph import LEVELS, build_graph, list_matrices
from secateur.encoders.padding import pad_rows
from secateur.encoders.sessions import Run, open_file
from secateur.evaluation.encodechka import list_sentences
from secateur.evaluation.probe import FOLDER, PARTS, read_parts
from secateur.evaluation.validation import retrieval
from secateur.export.card import read_held_out

log = logging.getLogger(__name__)

SMALLEST = 4  # sentences of each kind
FEW = 100  # pairs: the standard error of an accuracy@1 is then up to 0.05
HELD_OUT = 0.05  # the share of the pairs that prune holds out where nothing else is said
COMPANY = 128, 32  # sentences that are also run alone, and in padded batches of so many


@dataclass(frozen=True)
class Texts:
    """The sentences a file is judged by, and others that its int8 matrices are chosen on."""

    judged: list[str]  # of pairs: all English sides, then all Russian
    calibration: list[str]
    pairs: int  # 0: the sentences are no pairs, and retrieval is not measured
    calibration_pairs: int
    origin: str


def read_pairs(path: Path, count: int, held_out: float) -> Texts:
    """Return up to `count` pairs of a .tsv (en, ru) that a run on it holds out, and others to calibrate on.

    The file is cleaned and split as a run with that `corpus.held_out` does it, so nothing was trained on the pairs
    judged by. Pairs of the training side calibrate, or texts of the probe where there are none.
    Raises InputError: unreadable, or too few pairs held out.
    """
    settings = CorpusSettings()
    rows = clean_rows(
        read_table(path, settings.max_malformed), min_words=settings.min_words, max_words=settings.max_words
    )
    corpus = split_rows(drop_duplicates(rows, {}), held_out)
    held, train = corpus.held_out, [number for number, paired in enumerate(corpus.train.paired) if paired]
    judged = min(count, len(held))
    error = 0.5 / math.sqrt(max(1, judged))  # of a share among so many: at most
    of = f"of the {say_count(len(held) + len(train), 'pair')} of {path.name}"
    if judged < SMALLEST:
        raise InputError(
            f"{path}: {judged} {of} are held out, a share of {held_out} by hash: too few to judge a file by; "
            "leave --pairs out, or set --held-out to 1 if the model never saw this file"
        )
    if judged < FEW:
        log.warning(
            "%d %s are held out, a share of %s by hash: retrieval accuracy@1 has a standard error of up to %.2f",
            judged, of, held_out, error,
        )  # fmt: skip
    some = train[: max(SMALLEST, judged // 4)]
    calibration = [*(corpus.train.en[row] for row in some), *(corpus.train.ru[row] for row in some)]
    return Texts(
        judged=[*held.en[:judged], *held.ru[:judged]],
        calibration=calibration if len(some) >= SMALLEST else read_probe_texts(2 * judged).calibration,
        pairs=judged,
        calibration_pairs=len(some) if len(some) >= SMALLEST else 0,
        origin=f"{judged} pairs of {path.name}, {say_share(held_out)} (standard error of accuracy@1 up to {error:.2f})",
    )


def choose_held_out(folder: Path, asked: float | None) -> float:
    """Return the share of the pairs that a model was not trained on. Raises InputError: a larger one was asked for."""
    path = folder / "README.md"
    known = read_held_out(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    if asked is not None and known is not None and known < asked < 1:
        raise InputError(
            f"held_out: {asked} asked for, but the run that made {folder} held out {known} of its pairs and was "
            "trained on the others"
        )
    return asked or known or HELD_OUT


def say_share(held_out: float) -> str:
    """Return how it is known that nothing was trained on some pairs."""
    return "said to be new to the model" if held_out == 1 else f"a share of {held_out} that was held out by hash"


def read_probe_texts(count: int) -> Texts:
    """Return sentences of the probe that comes with secateur, in the order of their hashes; none are pairs."""
    texts = list_sentences({task: read_parts(FOLDER, task) for task in PARTS})
    ordered = sorted(texts, key=lambda text: blake2b(text.encode(), digest_size=8).digest())
    calibration = max(SMALLEST, count // 4)
    judged = ordered[:count]
    origin = f"{len(judged)} sentences of the probe; retrieval needs pairs and is not measured"
    return Texts(judged, ordered[count : count + calibration], 0, 0, origin)


@dataclass(frozen=True)
class Quality:
    """What a file's vectors are worth beside torch's."""

    max_difference: float  # of any component
    cosine: float  # mean over the sentences
    low_cosine: float  # their first percentile
    en_ru: float | None  # retrieval accuracy@1; none: no pairs
    ru_en: float | None
    drift: float | None = None  # largest difference of any component of a vector alone to the one in a batch
    padded_drift: float | None = None  # the same in batches of several lengths, which secateur does not run


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

    def measure(self, file: Path | bytes, *, backend: str = "onnx", company: bool = False) -> Quality:
        """Return what an ONNX file's vectors are worth, run by ONNX Runtime or by OpenVINO.

        `company`: measure too whether they depend on what else is in a batch.
        """
        run, dimension = open_file(file, self.threads, backend=backend)
        vectors = np.empty((len(self.rows), dimension), np.float32)
        for where, found in run_rows(run, self.rows, self.pad_id, padded=False):
            vectors[where] = found
        quality = compare(vectors, self.vectors, self.pairs)
        if not company:
            return quality
        drift, padded_drift = self.measure_drift(run, vectors)
        return replace(quality, drift=drift, padded_drift=padded_drift)

    def measure_drift(self, run: Run, vectors: np.ndarray) -> tuple[float, float]:
        """Return how far sentences alone are from `vectors`, those of batches of one length, and from padded batches.

        The largest difference of any component of unit vectors.
        """
        count, batch = COMPANY
        some = np.random.default_rng(0).permutation(len(self.rows))[:count]
        alone = np.concatenate([run(*pad_rows([self.rows[row]], self.pad_id)) for row in some])
        parts = np.array_split(some, -(-len(some) // batch))
        padded = np.concatenate([run(*pad_rows([self.rows[row] for row in part], self.pad_id)) for part in parts])
        return float(np.abs(alone - vectors[some]).max()), float(np.abs(alone - padded).max())

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
    if quality.drift is not None and not quality.drift <= limits.max_drift:
        return f"a vector differs by {quality.drift:.1e} in other company, at most {limits.max_drift:.0e} asked"
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
    return LEVELS if (exact if limits.exact is None else limits.exact) else REDUCED_LEVELS
