"""What a page is made of: sections of pictures, tables and notes; numbers in words, with differences and intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from secateur.data.counting import say_count
from secateur.evaluation.drift import Drift, Mean, average, find_worst, split_by_length
from secateur.evaluation.intervals import share_interval
from secateur.evaluation.leaderboard import SENTENCE_TASKS, WORD_TASKS, Scores, mean_draws, mean_s
from secateur.export.origin import hide_paths
from secateur.reports.cells import Cell, Table, bound, difference, interval, number, spread, words
from secateur.reports.figures.saliency import keep_by_layer
from secateur.reports.record import Record

WORST = 20  # sentences shown
ENOUGH = 30  # pairs for the normal distribution to describe a mean of theirs

TASKS = {
    "STS": "semantic similarity",
    "PI": "paraphrases",
    "NLI": "entailment",
    "SA": "sentiment",
    "TI": "toxicity",
    "IA": "inappropriate topics",
    "IC": "intents",
    "ICX": "intents, learnt in English",
    "NE1": "entities in drug reviews",
    "NE2": "entities in news",
}
AXES = {
    "layers": "layers",
    "heads": "attention heads, all layers",
    "neurons": "FFN neurons, all layers",
    "hidden": "hidden width",
    "pieces": "tokens of the vocabulary",
    "rank": "rank of the word embeddings",
}


RETRIEVAL = (
    "English to Russian, Russian to English: retrieval accuracy@1, the share of sentences whose nearest neighbour "
    "among all translations is their own."
)


def tabulate_costs(record: Record) -> Table:
    """Return what each stage's encoder costs, and the teacher's share of it."""
    first = record.stages[0]
    rows = [
        [
            words(row["stage"]),
            number(row.get("parameters"), "{:,}"),
            *compare_cost(row, first, "mb", "{:.1f}"),
            *compare_cost(row, first, "ms", "{:.2f}"),
        ]
        for row in record.stages
    ]
    header = ["encoder", "parameters", "megabytes", "of the teacher's", "ms a sentence", "of the teacher's"]
    return Table("Cost", header, rows)


def tabulate_held_out(record: Record) -> Table:
    """Return how near each stage's encoder is to the teacher on held-out pairs."""
    rows = [[words(row["stage"]), *held_out_cells(record, row)] for row in record.stages]
    header = ["encoder", "cosine to the teacher", "English to Russian", "against the teacher", "Russian to English",
              "against the teacher"]  # fmt: skip
    pairs = len(record.drift.en) if record.drift is not None else record.stages[-1].get("pairs")
    judged = "" if pairs is None else f"Judged on {say_count(int(pairs), 'held-out pair')}. "
    note = (
        f"{judged}{RETRIEVAL} ± and brackets: 95% intervals; differences are taken pair by pair, and coloured where "
        "the interval leaves zero out."
    )
    return Table("Held-out pairs", header, rows, note=note)


def compare_cost(row: Mapping[str, Any], first: Mapping[str, Any], key: str, form: str) -> tuple[Cell, Cell]:
    share = row[key] / first[key] if key in row and first.get(key) else None
    return number(row.get(key), form), number(None if share is None else 100 * share, "{:.0f}%")


def held_out_cells(record: Record, row: Mapping[str, Any]) -> list[Cell]:
    drift = record.drift
    if drift is None or row["stage"] not in drift.stages:
        en_ru, ru_en = (number(row.get(key), "{:.3f}") for key in ("en_ru", "ru_en"))
        return [number(row.get("cosine")), en_ru, words("–"), ru_en, words("–")]
    of, teacher = drift.stages[row["stage"]], drift.stages.get("teacher")
    cells = [interval(average((of.cosine_en + of.cosine_ru) / 2))]
    for key in ("en_ru", "ru_en"):
        hits = getattr(of, key).astype(float)
        cells.append(share_cell(average(hits)))
        if teacher is None or row["stage"] == "teacher":
            cells.append(words("–"))
            continue
        gap = average(hits - getattr(teacher, key).astype(float))
        sure = gap.count >= ENOUGH  # of fewer pairs differences are too rarely told apart by chance to be coloured
        cells.append(difference(gap.value, *((gap.low, gap.high) if sure else (None, None))))
    return cells


def share_cell(mean: Mean) -> Cell:
    """Return a share of pairs and its interval, which is not even where all are hits and the pairs are few."""
    low, high = share_interval(mean.value, mean.count)
    if mean.count >= ENOUGH and min(mean.value, 1 - mean.value) * mean.count >= 5:
        return interval(mean, digits=3)
    return Cell(f"{mean.value:.3f} ({low:.2f} to {high:.2f})", mean.value)


def tabulate_benchmark(scores: Mapping[str, Scores], title: str) -> Table:
    """Return a row for each task: every encoder's own vector, and what it gains or loses against the teacher."""
    names = list(scores)
    base = scores.get("teacher")
    header = ["task"]
    for name in names:
        header += [name] if base is None or name == "teacher" else [name, "against the teacher", "kept"]
    tasks = [task for task in (*SENTENCE_TASKS, *WORD_TASKS) if any(task in each.own for each in scores.values())]
    rows = [[words(task, TASKS[task]), *task_cells(scores, task)] for task in tasks]
    rows.append([words("mean", "of the sentence tasks"), *mean_cells(scores)])
    drawn = any(each.draws for each in scores.values())
    note = "The model's own sentence vector. "
    note += "± and brackets: 95% bootstrap intervals, each task's items drawn anew, the same for both encoders." * drawn
    return Table(title, header, rows, note=note)


def task_cells(scores: Mapping[str, Scores], task: str) -> list[Cell]:
    values = {name: known(each.own.get(task)) for name, each in scores.items()}
    draws = {name: each.draws[task] for name, each in scores.items() if task in each.draws}
    return score_cells(values, draws)


def known(value: float | None) -> float | None:
    """Return a score; None where it is undefined, as a correlation is where every pair is equally similar."""
    return None if value is None or math.isnan(value) else value


def mean_cells(scores: Mapping[str, Scores]) -> list[Cell]:
    values = {name: mean_s(each.own) for name, each in scores.items()}
    draws = {
        name: mean_draws(each.draws)
        for name, each in scores.items()
        if all(task in each.draws for task in SENTENCE_TASKS)
    }
    return score_cells(values, draws)


def score_cells(values: Mapping[str, float | None], draws: Mapping[str, np.ndarray]) -> list[Cell]:
    """Return each encoder's score, and behind each but the teacher's the difference and the share that it keeps."""
    cells = []
    base = values.get("teacher")
    for name, value in values.items():
        cells.append(spread_draws(value, draws.get(name)))
        if name == "teacher" or "teacher" not in values:
            continue
        if value is None or base is None:
            cells += [words("–"), words("–")]
            continue
        bounds: tuple[float, float] | tuple[None, None] = (None, None)
        if name in draws and "teacher" in draws:
            bounds = bound(draws[name] - draws["teacher"])
        cells += [difference(value - base, *bounds), number(100 * value / base if base else None, "{:.1f}%")]
    return cells


def spread_draws(value: float | None, draws: np.ndarray | None) -> Cell:
    low, high = (None, None) if draws is None else bound(draws)
    if value is None or low is None or high is None:
        return number(value, "{:.3f}")
    return spread(value, (high - low) / 2, 3)


def tabulate_axes(record: Record) -> Table:
    """Return what is left of every axis, whole and kept, and the loss that a limit's plan predicted for it."""
    assert record.whole is not None, "the caller checks"
    assert record.plan is not None, "the caller checks"
    rows = []
    for axis, name in AXES.items():
        whole, kept = getattr(record.whole, axis), getattr(record.plan.sizes, axis)
        if axis == "rank":
            whole, kept = whole or record.whole.hidden, kept or record.plan.sizes.hidden
        left = number(100 * kept / whole if whole else None, "{:.0f}%")
        row = [words(name), number(whole, "{:,}"), number(kept, "{:,}"), left]
        rows.append([*row, number(record.plan.losses.get(axis))] if record.plan.loss else row)
    header = ["axis", "teacher", "student", "kept", *(["predicted loss of cosine"] if record.plan.loss else [])]
    return Table("Every axis", header, rows, half=True)


def tabulate_layers(record: Record, axis: str) -> Table:
    """Return what each layer keeps of its heads or neurons, and how much of their saliency that is."""
    assert record.saliency is not None, "the caller checks"
    layers = getattr(record.saliency, axis)
    rows = []
    for layer, scores in enumerate(layers):
        cells = [Cell(str(layer), layer), number(len(scores), "{:,}")]
        if record.kept is None:
            rows.append([*cells, words("–"), words("–")])
            continue
        left = keep_by_layer(record.kept, axis, len(layers))[layer]
        total = float(scores.sum())
        share = float(scores[list(left)].sum()) / total if total else 0.0
        rows.append([*cells, number(len(left), "{:,}"), number(100 * share, "{:.0f}%")])
    header = ["layer", axis, "kept", "of the layer's saliency"]
    return Table(f"{axis.capitalize()} in numbers", header, rows, words=(), half=True)


def tabulate_languages(drift: Drift) -> Table:
    """Return the mean cosine to the teacher by stage and language."""
    rows = []
    for name, of in drift.stages.items():
        if name == "teacher":
            continue
        en, ru = of.cosine_en, of.cosine_ru
        gap = average(ru - en)
        low = [number(float(np.quantile(side, 0.05))) for side in (en, ru)]
        rows.append([words(name), interval(average(en)), low[0], interval(average(ru)), low[1],
                     difference(gap.value, gap.low, gap.high, digits=4)])  # fmt: skip
    header = ["encoder", "English", "5% lie below", "Russian", "5% lie below", "Russian minus English"]
    return Table("By language, in numbers", header, rows)


def tabulate_lengths(drift: Drift) -> Table:
    stage = list(drift.stages)[-1]
    rows = [
        [words(language), Cell(name, order), number(mean.count, "{:,}"), interval(mean)]
        for language, by_name in split_by_length(drift, stage).items()
        for order, (name, mean) in enumerate(by_name.items())
    ]
    header = ["language", "words", "sentences", "cosine to the teacher"]
    return Table(f"By length, {stage}", header, rows)


def tabulate_worst(drift: Drift) -> Table:
    """Return the sentences of the student that drifted farthest."""
    stage = list(drift.stages)[-1]
    rows = [
        [words(each.text), number(each.cosine), words(each.language), words(each.translation)]
        for each in find_worst(drift, stage, WORST)
    ]
    header = ["sentence", "cosine", "language", "its translation"]
    title = f"The {len(rows)} sentences that drifted farthest from the teacher, {stage}"
    return Table(title, header, rows, words=(0, 2, 3), stacked=True)


def tabulate_recipe(record: Record) -> Table:
    """Return the recipe; of a path the last part: a page is for others to read too, `recipe.json` has the whole."""
    rows = [[words(key), words(value)] for key, value in flatten_recipe(hide_paths(record.recipe)).items()]
    return Table("Every key", ["key", "value"], rows, words=(0, 1), stacked=True)


def flatten_recipe(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return every value as text under its dotted key."""
    flat: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= flatten_recipe(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for place, each in enumerate(value):
                flat |= flatten_recipe(each, f"{prefix}{key}.{place}.")
        else:
            flat[f"{prefix}{key}"] = say_value(value)
    return flat


def say_value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(say_value, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else "none" if value == {} else str(value) or "none"


def tabulate_changes(records: Sequence[Record]) -> Table:
    """Return the keys in which the recipes of several runs differ."""
    flat, shown = ([flatten_recipe(of(each.recipe)) for each in records] for of in (dict, hide_paths))
    keys = [key for key in dict.fromkeys(key for each in flat for key in each) if key != "name"]
    rows = [
        [words(key), *(words(each.get(key, "–")) for each in shown)]
        for key in keys
        if len({each.get(key) for each in flat}) > 1
    ]
    return Table("What differs", ["key", *(record.name for record in records)], rows, words=range(len(records) + 1))


def tabulate_runs(records: Sequence[Record]) -> Table:
    """Return a row for each run: its student's costs and quality."""
    rows = []
    for record in records:
        last = record.stages[-1] if record.stages else {}
        mean = mean_s(list(record.scores.values())[-1].own) if record.scores else None
        rows.append([
            words(record.name), words(say_state(record)), number(last.get("parameters"), "{:,}"),
            number(last.get("mb"), "{:.1f}"), number(last.get("ms"), "{:.2f}"), number(last.get("cosine")),
            number(last.get("en_ru"), "{:.3f}"), number(last.get("ru_en"), "{:.3f}"), number(mean, "{:.3f}"),
        ])  # fmt: skip
    header = ["run", "state", "parameters", "megabytes", "ms a sentence", "cosine to the teacher", "English to Russian",
              "Russian to English", "mean of the sentence tasks"]  # fmt: skip
    return Table("The students", header, rows, words=(0, 1), note=RETRIEVAL)


def say_state(record: Record) -> str:
    """Return in words how far a run has come."""
    if record.has_ended:
        return "ended" if record.stages else "ended, its scores cannot be read"
    if "metrics.jsonl" in (record.flaws or {}) and not record.metrics:
        return "not ended: its metrics cannot be read"
    step = max((line["step"] for line in record.metrics), default=0)
    return f"not ended: step {step:,} of {record.steps:,}" if record.metrics else "not ended: not yet training"
