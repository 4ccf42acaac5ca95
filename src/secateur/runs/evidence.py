"""What a cut rests on, looked at before the work: how many pairs judge it, and whether the teacher knows them."""

import logging
import math
from collections.abc import Sequence

import numpy as np

from secateur.config.errors import InputError
from secateur.config.recipe import PruningRecipe
from secateur.data.counting import say_count
from secateur.data.pairs import ParallelCorpus
from secateur.encoders.encoder import TorchEncoder
from secateur.evaluation.scores import HeldOut
from secateur.evaluation.validation import retrieval
from secateur.pruning.inputs import judged_sentences, trimmed_texts
from secateur.pruning.plan import check_budget
from secateur.pruning.predictions import Limits, Times
from secateur.pruning.unknown import check_known

log = logging.getLogger(__name__)

READ = 2_000  # sentences of each language that the tokenizer is tried on
JUDGES = 100  # held-out pairs, below which a share of them has a standard error over .05
FITTED = 200  # pairs to measure and fit on, below which that is said
KNOWN = 0.5  # of the translations: whoever finds fewer misses more than it finds


def check_start(
    teacher: TorchEncoder, corpus: ParallelCorpus, recipe: PruningRecipe, limits: Sequence[Limits] | None = None
) -> Times | None:
    """Refuse, before anything that takes minutes, what this teacher and this corpus cannot give; say what is doubtful.

    `limits` are the budget's own where no others are given. Returns what milliseconds are made of, where they are
    limited: that had to be measured. Raises InputError.
    """
    check_corpus(teacher, corpus)
    texts, judged = trimmed_texts(corpus.train.texts, recipe), judged_sentences(corpus, recipe)
    return check_budget(teacher, texts, judged, recipe.budget, limits)


def check_corpus(teacher: TorchEncoder, corpus: ParallelCorpus) -> None:
    """Say where there are too few pairs to judge by or to fit on, or where the tokenizer does not know their letters.

    Raises InputError: the tokenizer does not know most of a language.
    """
    judges, fitted = len(corpus.held_out), sum(corpus.train.paired)
    if judges < JUDGES or fitted < FITTED:
        log.warning(
            "%s to judge by, %s to measure and fit on: too few to rely on. A share of the held-out pairs has a "
            "standard error of up to %.2f (%d pairs: %.2f)", say_count(judges, "held-out pair"),
            say_count(fitted, "pair"), share_error(judges), JUDGES, share_error(JUDGES),
        )  # fmt: skip
    texts = {"en": [*corpus.held_out.en, *corpus.train.en], "ru": [*corpus.held_out.ru, *corpus.train.ru]}
    check_known(teacher.tokenizer, {language: sentences[:READ] for language, sentences in texts.items()})


def check_teacher(held_out: HeldOut) -> None:
    """Say where a teacher finds fewer than half of the translations among the held-out pairs.

    By that it does not know one of the languages, or not as a translation of the other; a student that is matched to
    it will not either. What few pairs leave open is not said: half must be out of reach of a standard error. Raises
    InputError: its vectors are not finite.
    """
    if not (np.isfinite(held_out.teacher_en).all() and np.isfinite(held_out.teacher_ru).all()):
        raise InputError("the teacher's vectors of the held-out sentences are not finite")
    found = {
        "en→ru": retrieval(held_out.teacher_en, held_out.teacher_ru),
        "ru→en": retrieval(held_out.teacher_ru, held_out.teacher_en),
    }
    if np.mean([*found.values()]) < KNOWN - share_error(len(held_out.en)):
        said = ", ".join(f"{way} {share:.2f}" for way, share in found.items())
        log.warning(
            "the teacher finds less than half of the translations of %s (accuracy@1: %s): it does not know both "
            "languages, or not in one space, and a student cannot learn that from it",
            say_count(len(held_out.en), "held-out pair"), said,
        )  # fmt: skip


def share_error(count: int) -> float:
    """Return the largest standard error of a share of `count` items: sqrt(p (1 - p) / n) at p = 1/2."""
    return 0.5 / math.sqrt(max(count, 1))
