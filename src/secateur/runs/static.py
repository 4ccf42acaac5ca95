"""A student without layers: from a teacher and pairs to a folder of token vectors that is read by looking up."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import set_seed
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from secateur.config.errors import InputError, QualityError
from secateur.config.recipe import PruningRecipe
from secateur.data.corpus import load_corpus
from secateur.distillation.targets import embed_corpus
from secateur.distillation.teachers import EncoderSource
from secateur.encoders.cost import count_bytes, count_parameters, serve, time_turns
from secateur.encoders.device import pick_device, pick_precision
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.loading import load_encoder
from secateur.encoders.static import bare_tokenizer, build_bag, embed_bag, load_bag, save_bag
from secateur.evaluation.scores import TIMED_SENTENCES, HeldOut, embed_held_out
from secateur.evaluation.validation import compare
from secateur.pruning.bag import Bag, count_matrix, fit_bag
from secateur.pruning.inputs import calibration_sentences, trimmed_texts
from secateur.pruning.spelling import read_vocabulary
from secateur.pruning.tokenizer import fast_tokenizer
from secateur.pruning.trimming import trim_vocabulary
from secateur.reports.display import StageTable
from secateur.reports.static_card import write_static_card
from secateur.runs.bookkeeping import stage
from secateur.runs.evidence import check_corpus, check_teacher

SAME = 1e-4  # the largest difference of a number between the vectors of a student and of its saved folder


def prune_to_bag(recipe: PruningRecipe, out: Path, *, cache: Path) -> StageTable:
    """Fit a bag of token vectors to a recipe's teacher, save it in `out`, and return both on held-out pairs.

    The teacher reads its own prompt, the student the bare sentence. The teacher's vectors are kept in the cache.
    Raises InputError: a model or a corpus that cannot be used, a rank or a vocabulary that the teacher does not have;
    QualityError: stock sentence-transformers gives other vectors for the folder.
    """
    set_seed(recipe.seed)
    teacher = load_encoder(recipe.teacher, device=pick_device(recipe.device))
    rank = check_asked(recipe, teacher)
    corpus = load_corpus(recipe.corpus, cache)
    check_corpus(teacher, corpus)
    held_out = embed_held_out(teacher, corpus, recipe.validation)
    check_teacher(held_out)
    pairs = corpus.train.texts
    with stage("vocabulary"):
        size = recipe.budget.vocabulary or len(teacher.tokenizer)
        reader = trim_vocabulary(teacher, trimmed_texts(pairs, recipe), size, fold=False).encoder
        tokenizer = bare_tokenizer(reader)
    sentences = list(dict.fromkeys(calibration_sentences(pairs, recipe.repair.sentences)))
    bag = fit(teacher, sentences, reader, tokenizer, rank, cache / "targets")
    student = build_bag(tokenizer, bag.vectors, bag.widen, bag.shift)
    rows = score(teacher, student, held_out)
    save_bag(student, out, card=write_static_card(replace(recipe, name=out.name), rows, len(sentences)))
    check_stock(student, out, held_out)
    return StageTable(rows)


def check_asked(recipe: PruningRecipe, teacher: TorchEncoder) -> int:
    """Return the dimension of the token vectors. Raises InputError: there is less than was asked for, or what a bag
    does not have."""
    budget, tokens = recipe.budget, len(teacher.tokenizer)
    if budget.rank is not None and budget.rank > teacher.dimension:
        raise InputError(
            f"budget.rank: {budget.rank} exceeds the {teacher.dimension} dimensions of the teacher's vectors"
        )
    if budget.vocabulary is not None and budget.vocabulary > tokens:
        raise InputError(f"budget.vocabulary: {budget.vocabulary} asked for, at most {tokens} can be kept")
    if recipe.teacher.dtype not in ("auto", "float32"):
        raise InputError(f"teacher.dtype: a student without layers is saved in float32, not in {recipe.teacher.dtype}")
    if recipe.teacher.max_length is not None:
        raise InputError("teacher.max_length: a student without layers reads every token of a sentence")
    if recipe.prompts == "token":
        raise InputError("prompts: token has no meaning for a student without layers, which reads the bare sentence")
    if not recipe.repair.sentences:
        raise InputError("repair.sentences: 0 leaves nothing that token vectors could be fitted to")
    return budget.rank or teacher.dimension


def fit(
    teacher: TorchEncoder,
    sentences: Sequence[str],
    reader: TorchEncoder,
    tokenizer: Tokenizer,
    rank: int,
    cache: Path,
) -> Bag:
    """Return the bag that comes nearest to a teacher's vectors of sentences; `reader` has the student's vocabulary."""
    source = EncoderSource(teacher, pick_precision("auto", teacher.device))
    with stage("teacher's vectors"):
        targets = embed_corpus(source, sentences, cache, progress="teacher's vectors")
        pieces, special = read_vocabulary(fast_tokenizer(reader)), set(reader.tokenizer.all_special_ids)
        numbers = [number for number in range(len(pieces.texts)) if number not in special]
        found = embed_corpus(source, [pieces.bare(number) for number in numbers], cache, progress="tokens alone")
    alone = np.zeros((len(pieces.texts), teacher.dimension), np.float32)
    alone[numbers] = found[np.arange(len(numbers))]
    with stage("fit"):
        return fit_bag(count_matrix(tokenizer, sentences), targets[np.arange(len(sentences))], alone, rank)


def score(teacher: TorchEncoder, student: SentenceTransformer, held_out: HeldOut) -> list[dict[str, Any]]:
    """Return the rows of the stage table: the teacher and the student on held-out pairs."""
    timed = held_out.ru[: TIMED_SENTENCES // 2] + held_out.en[: TIMED_SENTENCES // 2]
    runs = [serve(teacher, "torch"), lambda sentence: embed_bag(student, [sentence])]
    own = held_out.teacher_en, held_out.teacher_ru
    found = embed_bag(student, held_out.en), embed_bag(student, held_out.ru)
    parameters = sum(weight.numel() for weight in student.parameters())
    costs = [(count_parameters(teacher), count_bytes(teacher)), (parameters, 4 * parameters)]
    return [
        {"stage": name, "parameters": count, "mb": size / 1e6, "ms": ms, **compare(*vectors, *own).row}
        for name, (count, size), ms, vectors in zip(
            ("teacher", "static"), costs, time_turns(runs, timed), (own, found), strict=True
        )
    ]


def check_stock(student: SentenceTransformer, folder: Path, held_out: HeldOut) -> None:
    """Raise QualityError if stock sentence-transformers, loading the folder, gives other vectors than the student."""
    texts = [*held_out.en[:50], *held_out.ru[:50], ""]
    stock = load_bag(folder).encode(texts)
    largest = float(np.abs(stock - embed_bag(student, texts)).max())
    if not largest <= SAME:
        raise QualityError(f"{folder}: loaded again, its vectors differ by up to {largest:.1e}; it is saved as it is")
