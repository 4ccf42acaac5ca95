"""Held-out pairs: cosine to the teacher, and translation retrieval both ways. Checkpoints are chosen by it."""

from dataclasses import dataclass

import numpy as np

from secateur.encoder import Encoder, embed


@dataclass(frozen=True)
class Validation:
    """cosine: mean over held-out sentences of <student, teacher>. en_ru, ru_en: share of sentences whose nearest
    neighbour among all translations of the pool is their own."""

    cosine: float
    en_ru: float
    ru_en: float

    @property
    def score(self) -> float:
        """What a checkpoint is chosen by: the cosine to the teacher."""
        return self.cosine


def validate(
    encoder: Encoder, en: list[str], ru: list[str], teacher_en: np.ndarray, teacher_ru: np.ndarray, *, batch_size: int
) -> Validation:
    """Score an encoder on held-out pairs; teacher_en, teacher_ru are the teacher's unit vectors [pairs, D]."""
    vectors = embed(encoder, [*en, *ru], batch_size=batch_size)
    own_en, own_ru = vectors[: len(en)], vectors[len(en) :]
    cosines = np.concatenate([(own_en * teacher_en).sum(axis=1), (own_ru * teacher_ru).sum(axis=1)])
    return Validation(cosine=float(cosines.mean()), en_ru=retrieval(own_en, own_ru), ru_en=retrieval(own_ru, own_en))


def retrieval(queries: np.ndarray, pool: np.ndarray) -> float:
    """Return the share of rows i of `queries` whose most similar row of `pool` is row i. Unit rows [n, D].

    Of equally similar rows the first counts as found, so a repeated sentence is a miss for its later copies.
    """
    found = np.concatenate([(queries[i : i + 1024] @ pool.T).argmax(axis=1) for i in range(0, len(queries), 1024)])
    return float((found == np.arange(len(queries))).mean())
