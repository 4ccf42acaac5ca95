"""A model whose vectors may be cut short and stored as int8 or bits: fitted on texts, measured on others, saved."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from secateur.config.errors import InputError
from secateur.config.teacher import TeacherSettings
from secateur.data.cleaning import comparison_key, find_place
from secateur.data.counting import say_count
from secateur.data.files import whole_folder
from secateur.data.sources import read_lines
from secateur.encoders.encoder import embed
from secateur.encoders.forms import Calibration, as_rows, calibrate, make_codes, shorten, write_calibrations
from secateur.encoders.loading import load_encoder
from secateur.encoders.rotation import fit_rotation, rotate_encoder
from secateur.encoders.saving import round_weights, save_encoder
from secateur.evaluation.similarities import NEIGHBOURS, measure_shift
from secateur.evaluation.validation import retrieval
from secateur.export.card import make_card
from secateur.export.origin import find_origin
from secateur.reports.text import RETRIEVAL_NOTE, format_columns
from secateur.runs.infer import read_test

log = logging.getLogger(__name__)

HELD_OUT = 0.2  # of the sentences, by hash, judge
FEWEST, MOST_JUDGED = NEIGHBOURS + 2, 2_000  # sentences that judge: all pairs of them are compared
BYTES = {"float32": 4.0, "int8": 1.0, "binary": 1 / 8}  # of a coordinate
COLUMNS = {
    "form": ("vectors", "{}"),
    "bytes": ("bytes", "{:,}"),
    "difference": ("|Δ cosine|", "{:.4f}"),
    "spearman": ("Spearman", "{:.4f}"),
    "neighbours": ("neighbours", "{:.3f}"),
    "en_ru": ("en→ru", "{:.4f}"),
    "ru_en": ("ru→en", "{:.4f}"),
}
NOTE = (
    "against the model's own vectors, on {judged} that were not fitted on; |Δ cosine|: mean over their pairs; "
    "Spearman: of the pairs' similarities; neighbours: the share of a sentence's ten nearest that stay among them; "
    "bits are compared by how many are equal"
)


def shorten_vectors(
    model: str,
    texts: Sequence[Path],
    dimensions: Sequence[int],
    *,
    pairs: Path | None = None,
    out: Path | None = None,
    sentences: int,
    device: str = "cpu",
) -> str:
    """Rotate a model's vectors so that their first coordinates stand for all; return a table of what each form loses.

    `dimensions`: the lengths that vectors may be cut to. `out`: the folder that the model is saved in, with what int8
    and binary codes are made with. `pairs`: a .tsv of test pairs, for retrieval accuracy@1; no sentence of it is
    fitted on. `sentences`: how many of the texts' are read, a fair sample.
    Raises InputError: no such model or file, a length that the vectors do not have, too few sentences.
    """
    encoder = load_encoder(TeacherSettings(model=model), device=device)
    lengths = check_dimensions(dimensions, encoder.dimension, model)
    en, ru = ([], []) if pairs is None else read_test(pairs)
    split = split_sentences(texts, sentences, besides=[*en, *ru])
    check_enough(split, encoder.dimension, model)
    log.info("fitting on %s", say_count(len(split.fitted), "sentence"))
    own = embed(encoder, split.fitted, progress="embed")
    rotation = fit_rotation(own, [length for length in lengths if length < encoder.dimension])
    rotated = rotate_encoder(encoder, rotation)
    round_weights(rotated)  # it is measured as it is saved
    vectors = own @ rotation.astype(np.float32)
    calibrations = {length: calibrate(shorten(vectors, length)) for length in [encoder.dimension, *lengths[::-1]]}
    test = Test(embed(encoder, split.judged), *(embed(rotated, side) for side in (split.judged, en, ru)))
    table = format_table(list_rows(test, calibrations), len(split.judged), has_pairs=bool(en))
    if out is not None:
        card = write_card(model, out.name, table, lengths)
        with whole_folder(out) as temporary:
            save_encoder(rotated, temporary, card=card)
            write_calibrations(calibrations, temporary, sentences=len(split.fitted))
    return table


def check_dimensions(dimensions: Sequence[int], whole: int, model: str) -> list[int]:
    """Return lengths in ascending order, each once. Raises InputError: one that the model's vectors do not have."""
    for length in dimensions:
        if not 1 <= length <= whole:
            raise InputError(f"dimensions: {length} is not in 1 to {whole}, the length of the vectors of {model}")
    return sorted(set(dimensions))


@dataclass(frozen=True)
class Split:
    """Sentences to fit on, and others to judge by."""

    fitted: list[str]
    judged: list[str]


def split_sentences(texts: Sequence[Path], count: int, *, besides: Sequence[str]) -> Split:
    """Return `count` sentences of all texts, in the order of their hashes, split by another; those `besides` are not
    fitted on. Two that differ in case or punctuation alone are one."""
    found: dict[str, str] = {}
    for path in texts:
        for line in read_lines(path):
            key = comparison_key(line)
            if key:
                found.setdefault(key, line.strip())
    known = {comparison_key(sentence) for sentence in besides}
    chosen = sorted(found, key=partial(find_place, salt=b"order"))[:count]
    held = [key for key in chosen if find_place(key, salt=b"side") < HELD_OUT]
    fitted = [key for key in chosen if find_place(key, salt=b"side") >= HELD_OUT and key not in known]
    return Split([found[key] for key in fitted], [found[key] for key in held[:MOST_JUDGED]])


def check_enough(split: Split, dimension: int, model: str) -> None:
    """Raise InputError for fewer sentences than the rotation has axes, or too few to judge by."""
    if len(split.fitted) < dimension:
        raise InputError(
            f"texts: {say_count(len(split.fitted), 'sentence')} to fit on, fewer than the {dimension} dimensions of "
            f"{model}; of all that are different {1 - HELD_OUT:.0%} are fitted on, so give "
            f"{round(1.1 * dimension / (1 - HELD_OUT)):,} or more"
        )
    if len(split.judged) < FEWEST:
        raise InputError(f"texts: {say_count(len(split.judged), 'sentence')} to judge by, {FEWEST} are needed")


@dataclass(frozen=True)
class Test:
    """Unit vectors that judge: the model's own of sentences [n, D], the rotated ones of these, and of pairs [p, D]."""

    own: np.ndarray
    rotated: np.ndarray
    en: np.ndarray
    ru: np.ndarray


def list_rows(test: Test, calibrations: Mapping[int, Calibration]) -> list[dict[str, Any]]:
    """Return what each form of the vectors was measured to be worth, a row each, the longest first."""
    return [
        measure_form(test, output, length, calibration)
        for output in BYTES
        for length, calibration in calibrations.items()
    ]


def measure_form(test: Test, output: str, length: int, calibration: Calibration) -> dict[str, Any]:
    """Return the row of one form: its bytes, how far similarities moved, retrieval accuracy@1 if there are pairs."""
    after, en, ru = (as_form(vectors, output, calibration) for vectors in (test.rotated, test.en, test.ru))
    shift = measure_shift(test.own, after, on_one_scale=output != "binary")
    row = {
        "form": f"{output} {length}", "bytes": int(np.ceil(length * BYTES[output])),
        "spearman": shift.spearman, "neighbours": shift.neighbours,
    }  # fmt: skip
    row |= {} if shift.difference is None else {"difference": shift.difference}
    return row | ({"en_ru": retrieval(en, ru), "ru_en": retrieval(ru, en)} if len(en) else {})


def as_form(vectors: np.ndarray, output: str, calibration: Calibration) -> np.ndarray:
    """Return rows whose products are the similarities of unit vectors [n, D] in a form."""
    length = len(calibration.centres)
    if output == "float32":
        return shorten(vectors, length)
    return as_rows(make_codes(vectors, calibration=calibration, output=output), output, length)


def format_table(rows: Sequence[Mapping[str, Any]], judged: int, *, has_pairs: bool) -> str:
    note = NOTE.format(judged=say_count(judged, "sentence")) + (f"; {RETRIEVAL_NOTE}" if has_pairs else "")
    return f"{format_columns(rows, COLUMNS)}\n{note}"


def write_card(model: str, name: str, table: str, lengths: Sequence[int]) -> str:
    """Return the README.md of a model with rotated vectors: what it keeps of its old card is its origin."""
    origin = find_origin(model)
    first = max(lengths)
    said = " and ".join(f"{length}" for length in lengths[::-1])
    text = f"""{origin.name} with its sentence vectors rotated by secateur: all cosines are as they were, and the first
{said} coordinates are vectors by themselves. {origin.gaps}

```python
import secateur

encoder = secateur.Encoder("{name}")
encoder.encode(["..."], dimensions={first})  # float32, unit vectors
encoder.encode(["..."], dimensions={first}, output="int8")
```

```text
{table}
```
"""
    return make_card(name, text, tags=["matryoshka"], metadata=origin.metadata)
