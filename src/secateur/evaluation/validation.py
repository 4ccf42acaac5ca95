"""Held-out pairs: cosine to the teacher, and retrieval accuracy@1 both ways. Checkpoints are chosen by the cosine."""

from dataclasses import asdict, dataclass

import numpy as np

from secateur.encoders.encoder import TorchEncoder, embed
from secateur.evaluation.intervals import mean_error


@dataclass(frozen=True)
class Validation:
    """cosine: mean over held-out sentences of <student, teacher>. en_ru, ru_en: retrieval accuracy@1, the share of
    sentences whose nearest neighbour among all translations of the pool is their own."""

    cosine: float
    en_ru: float
    ru_en: float

    @property
    def score(self) -> float:
        """What a checkpoint is chosen by: the cosine to the teacher."""
        return self.cosine


@dataclass(frozen=True)
class Comparison:
    """Held-out pairs one by one. cosine_en, cosine_ru [pairs]: <student, teacher> of each sentence; en_ru, ru_en
    [pairs]: whether a sentence's nearest neighbour among all translations is its own."""

    cosine_en: np.ndarray
    cosine_ru: np.ndarray
    en_ru: np.ndarray
    ru_en: np.ndarray

    @property
    def means(self) -> Validation:
        cosine = np.concatenate([self.cosine_en, self.cosine_ru]).mean()
        return Validation(float(cosine), float(self.en_ru.mean()), float(self.ru_en.mean()))

    @property
    def row(self) -> dict[str, float | int]:
        """The means, over how many pairs they are, and what the cosine may be off by (half of a 95% interval)."""
        row: dict[str, float | int] = asdict(self.means) | {"pairs": len(self.en_ru)}
        error = mean_error((self.cosine_en + self.cosine_ru) / 2)  # the sides of a pair are not independent
        return row if error is None else row | {"cosine_error": error}


def validate(
    encoder: TorchEncoder,
    en: list[str],
    ru: list[str],
    teacher_en: np.ndarray,
    teacher_ru: np.ndarray,
    *,
    batch_size: int,
) -> Validation:
    """Score an encoder on held-out pairs; teacher_en, teacher_ru are the teacher's unit vectors [pairs, D]."""
    vectors = embed(encoder, [*en, *ru], batch_size=batch_size)
    return compare(vectors[: len(en)], vectors[len(en) :], teacher_en, teacher_ru).means


def compare(en: np.ndarray, ru: np.ndarray, teacher_en: np.ndarray, teacher_ru: np.ndarray) -> Comparison:
    """Compare the student's unit vectors of held-out pairs with the teacher's; all [pairs, D]."""
    cosine_en, cosine_ru = (en * teacher_en).sum(axis=1), (ru * teacher_ru).sum(axis=1)
    return Comparison(cosine_en, cosine_ru, find_own(en, ru), find_own(ru, en))


def retrieval(queries: np.ndarray, pool: np.ndarray) -> float:
    """Return retrieval accuracy@1: the share of rows i of `queries` whose most similar row of `pool` is row i.

    Unit rows [n, D].
    """
    return float(find_own(queries, pool).mean())


def find_own(queries: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Return for each row i of `queries` whether its most similar row of `pool` is row i. Unit rows [n, D].

    Of equally similar rows the first counts as found, so a repeated sentence is a miss for its later copies.
    """
    found = np.concatenate([(queries[i : i + 1024] @ pool.T).argmax(axis=1) for i in range(0, len(queries), 1024)])
    hits: np.ndarray = found == np.arange(len(queries))
    return hits
