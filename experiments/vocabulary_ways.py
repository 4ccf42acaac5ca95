"""What choosing tokens by expected loss and folding the vectors of cut ones are worth, with nothing else cut.

    python experiments/vocabulary_ways.py models/multilingual-e5-small --pairs train.en-ru.tsv.gz \\
        --texts everyday.en.txt.gz everyday.ru.txt.gz --judge msdocs bible --sizes 40000 20000 10000 --out DIR
    secateur infer DIR/* --data FOLDER

A vocabulary is trimmed to each size four ways: the most frequent tokens, or those whose loss would cost most (how often
a token is met times the squared distance of its vector to that of what spells it instead); the vectors of kept tokens
as they were, or with what cut tokens said folded into them. Printed is the mean cosine to the whole model's vectors, on
sentences that no choice was made by: of each text and of each source of the pairs that is named.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch

from secateur.config.teacher import TeacherSettings
from secateur.data.sources import read_lines, read_table
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.loading import load_encoder
from secateur.encoders.saving import save_encoder
from secateur.pruning import trimming
from secateur.pruning.tokenizer import fast_tokenizer
from secateur.reports.text import format_columns

JUDGED = 1_000  # sentences of each language and domain


def main() -> None:
    """Trim, measure, print."""
    parser = argparse.ArgumentParser(description="Compare ways to trim a vocabulary.")
    parser.add_argument("model")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--texts", type=Path, nargs=2, required=True, metavar=("EN", "RU"))
    parser.add_argument("--judge", nargs="+", default=[], help="sources of the pairs that are judged by")
    parser.add_argument("--sizes", nargs="+", type=int, default=[40_000, 20_000, 10_000])
    parser.add_argument("--out", type=Path, help="where the models are saved")
    options = parser.parse_args()
    texts, judged = read_texts(options.pairs, options.texts, options.judge)
    encoder = load_encoder(TeacherSettings(model=options.model))
    wanted = {domain: embed(encoder, sentences, precision="auto") for domain, sentences in judged.items()}
    begun = time.perf_counter()
    weights = trimming.weigh_pieces(fast_tokenizer(encoder), texts, prompt=encoder.prompt)
    print(f"{sum(map(len, texts.values())):,} sentences counted in {time.perf_counter() - begun:.0f} s")
    rows = []
    for size, choice, fold in itertools.product(options.sizes, ("frequency", "expected loss"), (False, True)):
        begun = time.perf_counter()
        trimmed = trim(encoder, texts, weights, size, by_loss=choice == "expected loss", fold=fold)
        seconds = time.perf_counter() - begun
        cosines = {
            domain: float((embed(trimmed, sentences, precision="auto") * wanted[domain]).sum(axis=1).mean())
            for domain, sentences in judged.items()
        }
        rows.append({"size": size, "choice": choice, "folded": fold, "seconds": seconds, **cosines})
        if options.out:
            save_encoder(trimmed, options.out / f"{size}-{choice.replace(' ', '-')}{'-folded' if fold else ''}")
    shown = {"size": ("tokens", "{:,}"), "choice": ("choice", "{}"), "folded": ("folded", "{}")}
    shown |= {"seconds": ("s", "{:.0f}")} | {domain: (domain, "{:.4f}") for domain in judged}
    print(format_columns(rows, shown))


def read_texts(
    pairs: Path, texts: tuple[Path, Path], sources: list[str]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the sentences that choices are made by, by language, and those that judge, by domain."""
    order = np.random.default_rng(0).permutation
    chosen: dict[str, list[str]] = {"en": [], "ru": []}
    judged: dict[str, list[str]] = {}
    for language, path in zip(chosen, texts, strict=True):
        lines = [line for line in read_lines(path) if line.strip()]
        shuffled = [lines[place] for place in order(len(lines))]
        judged[f"everyday {language}"], rest = shuffled[:JUDGED], shuffled[JUDGED:]
        chosen[language] += rest
    table = read_table(pairs, 0.0)
    rows = [table[place] for place in order(len(table))]
    taken = dict.fromkeys(sources, 0)
    for row in rows:
        if taken.get(row.source, JUDGED) < JUDGED:
            taken[row.source] += 1
            for language in chosen:
                judged.setdefault(f"{row.source} {language}", []).append(getattr(row, language))
        else:
            for language, sentences in chosen.items():
                sentences.append(getattr(row, language))
    return chosen, judged


def trim(
    encoder: TorchEncoder, texts: dict[str, list[str]], weights: np.ndarray, size: int, *, by_loss: bool, fold: bool
) -> TorchEncoder:
    """Return the encoder with `size` tokens; the steps are those of `trim_vocabulary`, which chooses by loss."""
    if by_loss:
        return trimming.trim_vocabulary(encoder, texts, size, fold=fold, weights=weights).encoder
    tokenizer = fast_tokenizer(encoder)
    pieces = trimming.read_vocabulary(tokenizer)
    needed = trimming.find_needed(pieces, trimming.find_ours(tokenizer, pieces, texts).promised)
    kept = trimming.keep_best(weights, needed | trimming.find_fixed(encoder), size)
    vectors = trimming.word_vectors(encoder)
    rows = vectors[torch.tensor(kept)]
    if fold:
        known = set(kept)
        cut = (piece for piece in np.flatnonzero(weights).tolist() if piece not in known)
        rows = trimming.fold_vectors(vectors, weights, kept, trimming.spell_all(pieces, cut, known))
    return trimming.replace_pieces(encoder, kept, rows)


if __name__ == "__main__":
    main()
