"""A run in words and tables for the terminal: stages, benchmarks, costs, plans; and the model card."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from secateur.data.counting import say_count
from secateur.encoders.cost import BATCH, Timing
from secateur.evaluation.intervals import FEW, share_interval
from secateur.evaluation.leaderboard import PUBLISHED, SENTENCE_TASKS, WORD_TASKS, Scores, mean_s, say_passed
from secateur.evaluation.ranking import BENCHMARKS, Ranking
from secateur.pruning.predictions import Plan
from secateur.pruning.sizes import EncoderShape, count_parameters
from secateur.pruning.trimming import Coverage

RETRIEVAL_NOTE = (
    "en→ru, ru→en: retrieval accuracy@1, the share of sentences whose nearest neighbour among all translations is "
    "their own"
)
STAGE_NOTE = (
    "MB: of the weights; ms/sentence: one at a time; cosine: to the teacher's vectors, held-out pairs; "
    f"{RETRIEVAL_NOTE}"
)

STAGE_COLUMNS = {
    "stage": ("stage", "{}"),
    "parameters": ("parameters", "{:,}"),
    "mb": ("MB", "{:.1f}"),
    "ms": ("ms/sentence", "{:.2f}"),
    "cosine": ("cosine", "{:.4f}"),
    "en_ru": ("en→ru", "{:.4f}"),
    "ru_en": ("ru→en", "{:.4f}"),
}


def stage_cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the stage table as cells of text; where few pairs judged, what each mean may be off by stands beside."""
    if find_few(rows) is None:
        return column_cells(rows, STAGE_COLUMNS)
    columns: dict[str, tuple[str, str]] = {}
    for key, column in STAGE_COLUMNS.items():
        columns |= {key: column} | ({f"{key}_error": ERROR_COLUMNS[key]} if key in ERROR_COLUMNS else {})
    return column_cells([dict(row) | say_errors(row) for row in rows], columns)


def find_few(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """Return how many pairs judged, where these are few; None: enough, or not known."""
    pairs = min((row["pairs"] for row in rows if "pairs" in row), default=FEW)
    return pairs if pairs < FEW else None


def say_errors(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row's errors in words: that of the cosine as it was measured, the retrievals' from their number."""
    ranges = {way: share_interval(row[way], row["pairs"]) for way in ("en_ru", "ru_en") if "pairs" in row}
    said = {f"{way}_error": f"{low:.2f} to {high:.2f}" for way, (low, high) in ranges.items()}
    return said | ({"cosine_error": f"{row['cosine_error']:.4f}"} if "cosine_error" in row else {})


def note_stages(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the line under a stage table, and over how few pairs its means are."""
    few = find_few(rows)
    if few is None:
        return STAGE_NOTE
    return f"{STAGE_NOTE}; judged on {say_count(few, 'held-out pair')} alone: ± and 95%: how far off the means may be"


ERROR_COLUMNS = {"cosine": ("±", "{}"), "en_ru": ("95%", "{}"), "ru_en": ("95%", "{}")}

ARTEFACT_COLUMNS = {
    "artefact": ("artefact", "{}"),
    "mb": ("MB", "{:.1f}"),
    "difference": ("largest difference", "{:.1e}"),
    "cosine": ("mean cosine", "{:.5f}"),
    "low": ("1st percentile", "{:.5f}"),
    "en_ru": ("en→ru", "{:.4f}"),
    "ru_en": ("ru→en", "{:.4f}"),
    "mean_s": ("Mean S", "{:.4f}"),
}


def note_artefacts(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the line under an export's table, on the columns that have numbers in them."""
    note = "largest difference, cosines (mean and 1st percentile): to the torch model's vectors of the same sentences"
    note += f"; {RETRIEVAL_NOTE}" if any("en_ru" in row for row in rows) else ""
    return note + ("; Mean S: encodechka's sentence tasks" if any("mean_s" in row for row in rows) else "")


def format_costs(rows: Sequence[Mapping[str, Any]], timing: Timing) -> str:
    """Return the costs of models beside each other, and how the times were taken."""
    devices = list(dict.fromkeys(device for row in rows for device in row["times"]))
    header = ["model", "backend", "parameters", "MB on disk", "in memory", "GFLOPs"]
    header += [title for device in devices for title in (f"ms, {device}", "p95", "sentences/s")]
    cells = [header]
    for row in rows:
        memory = "-" if row["memory"] is None else f"{row['memory'] / 1e6:.1f}"
        line = [row["model"], row["backend"], f"{row['parameters']:,}", f"{row['disk'] / 1e6:.1f}", memory]
        line.append(f"{row['flops'] / 1e9:.3f}")
        for device in devices:
            times = row["times"].get(device)
            forms = {"ms": "{:.2f}", "p95": "{:.2f}", "per_second": "{:.0f}"}
            line += [form.format(times[key]) if times else "-" for key, form in forms.items()]
        cells.append(line)
    note = (
        f"{timing.length} tokens a sentence; ms and p95 (95th percentile) at batch 1, {timing.repeats} runs after "
        f"{timing.warmup} of warm-up; sentences/s at batch {BATCH}, median of {timing.batches}; models take turns"
    )
    return f"{format_table(cells)}\n{note}"


def format_benchmark(scores: Mapping[str, Scores]) -> str:
    """Return the benchmark table: own vectors, then best poolings as published rows have them, then those rows."""
    if next(iter(scores.values())).benchmark == "probe":
        return format_probe(scores)
    tasks = [*SENTENCE_TASKS, *WORD_TASKS]
    header = ["encodechka", *SENTENCE_TASKS, "Mean S", *WORD_TASKS]
    rows = [header]
    for form in ("own", "best"):
        for name, score in scores.items():
            values: dict[str, float] = getattr(score, form)
            rows.append([f"{name}, {FORMS[form]}", *score_cells(values, mean_s(values))])
    for name, values in PUBLISHED.items():
        known = {task: values[task] for task in tasks if task in values}
        rows.append([f"{name}, published", *score_cells(known, values["Mean S"])])
    last = list(scores)[-1]
    lines = [format_table(rows), *note_undefined(scores)]
    lines.append(f"{last}, best pooling: {say_passed(mean_s(scores[last].best))}")
    return "\n".join(lines)


def format_probe(scores: Mapping[str, Scores]) -> str:
    """Return the probe's table, own vectors, with the 95% interval of each mean."""
    rows = [["probe, own vector", *SENTENCE_TASKS, "mean", "95% interval"]]
    for name, score in scores.items():
        interval = "-" if score.interval is None else say_interval(score.interval)
        rows.append([name, *sentence_cells(score.own), interval])
    note = "The probe's numbers are not encodechka's: they compare with each other alone."
    return "\n".join([format_table(rows), *note_undefined(scores), note])


def note_undefined(scores: Mapping[str, Scores]) -> list[str]:
    """Return a line for each encoder that has undefined scores; in a table these are dashes."""
    lines = []
    for name, of in scores.items():
        tasks = [task for task, score in of.own.items() if math.isnan(score)]
        if tasks:
            lines.append(f"{name}: {', '.join(tasks)} not defined: to its own vector every pair is equally similar")
    return lines


def sentence_cells(values: Mapping[str, float]) -> list[str]:
    """Return the sentence tasks' scores and their mean as cells of text; a dash stands for one that is not known."""
    return score_cells(values, mean_s(values))[: len(SENTENCE_TASKS) + 1]


def say_interval(interval: tuple[float, float]) -> str:
    return "{:.4f}-{:.4f}".format(*interval)


def format_ranking(ranking: Ranking) -> str:
    """Return encoders by their encodechka mean, the agreement of the two orders, and the pairs that change places."""
    by_probe = sorted(ranking.standings, key=lambda each: -each.means["probe"] if each.is_known else math.inf)
    rows = [["own vector", "Mean S", "rank", "probe", "rank"]]
    for place, each in enumerate(ranking.standings, start=1):
        means = ["-" if math.isnan(each.means[name]) else f"{each.means[name]:.4f}" for name in BENCHMARKS]
        places = (str(place), str(by_probe.index(each) + 1)) if each.is_known else ("-", "-")
        rows.append([each.name, *(cell for pair in zip(means, places, strict=True) for cell in pair)])
    lines = [
        format_table(rows),
        f"Spearman's rank correlation: {say_agreement(ranking.agreement())} over all, "
        f"{say_agreement(ranking.agreement(neural=True))} over the neural ones",
        *(f"{each.name}: not ranked: a task is not defined for it" for each in ranking.standings if not each.is_known),
    ]
    for swap in ranking.swaps:
        sides = "; ".join(
            f"{name} {swap.differences[name]:+.4f} ({swap.intervals[name][0]:+.4f} to {swap.intervals[name][1]:+.4f})"
            for name in swap.differences
        )
        verdict = "not told apart" if swap.is_undecided else "told apart, and differently"
        lines.append(f"{swap.better} - {swap.worse}: {sides}: {verdict}")
    return "\n".join([*lines, "" if ranking.swaps else "no pair changes places"]).rstrip()


def say_agreement(agreement: float) -> str:
    return "not defined" if math.isnan(agreement) else f"{agreement:.3f}"


FORMS = {"own": "own vector", "best": "best pooling"}


def score_cells(values: Mapping[str, float], mean: float | None) -> list[str]:
    known = {task: score for task, score in values.items() if not math.isnan(score)}
    cells = {task: f"{known[task]:.4f}" if task in known else "-" for task in (*SENTENCE_TASKS, *WORD_TASKS)}
    sentence = [cells[task] for task in SENTENCE_TASKS]
    return [*sentence, "-" if mean is None else f"{mean:.4f}", *(cells[task] for task in WORD_TASKS)]


AXIS_NAMES = {"hidden": "hidden width", "pieces": "vocabulary, tokens", "rank": "rank of word embeddings"}


def plan_cells(plan: Plan, shape: EncoderShape) -> list[list[str]]:
    """Return the table of a plan, an axis a row; losses stand there only where some were predicted."""
    whole = asdict(shape.whole)
    predicted = bool(plan.loss)
    rows = [["axis", "whole", "kept", *(["predicted loss"] if predicted else [])]]
    for axis, size in asdict(plan.sizes).items():
        sides = (
            whole["hidden"] if axis == "rank" and each is None else each
            for each in (whole[axis], size or plan.sizes.hidden)
        )
        losses = [f"{plan.losses[axis]:.4f}"] if predicted else []
        rows.append([AXIS_NAMES.get(axis, axis), *(f"{side:,}" for side in sides), *losses])
    return rows


def say_plan(plan: Plan, shape: EncoderShape) -> str:
    """Return what a plan costs beside the teacher, and the cosine that is predicted, in one line."""
    cost = f"{plan.params:,} parameters of {count_parameters(shape.whole, shape):,}, {plan.mb:.1f} MB"
    cost += "" if plan.ms is None else f", {plan.ms:.2f} ms a sentence"
    return cost + (f"; predicted cosine {1 - plan.loss:.4f} before training" if plan.loss else "")


LOSS_NOTE = (
    "predicted loss: 1 - cosine to the teacher's vectors, each axis cut alone and repaired (0 for an axis that was "
    "named: it is not tried); the predicted cosine is 1 minus their sum, an estimate: the student is measured once it "
    "is cut"
)


def note_losses(plan: Plan) -> list[str]:
    """Return the line that says what predicted losses are, where some were predicted."""
    return [LOSS_NOTE] if plan.loss else []


def format_coverage(kept: Sequence[int], coverage: Sequence[Coverage]) -> str:
    """Return what a trimmed vocabulary did to each language's text."""
    rows = [["language", "tokens a word", "after", "unknown tokens", "after", "sentences whose tokens are all kept"]]
    for each in coverage:
        before, after = f"{each.pieces_before:.3f}", f"{each.pieces_after:.3f}"
        unknown = f"{each.unknown_before:,}", f"{each.unknown_after:,}"
        rows.append([each.language, before, after, *unknown, f"{each.survived:.1%}"])
    return f"{len(kept):,} tokens kept\n{format_table(rows)}"


def format_columns(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]) -> str:
    """Return rows as a table; `columns` holds the title and the format of each key, a row may lack some."""
    return format_table(column_cells(rows, columns))


def column_cells(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]) -> list[list[str]]:
    """Return rows as cells of text under their titles, as `format_columns` does, without columns that no row has."""
    known = {key: column for key, column in columns.items() if any(key in row for row in rows)}
    header = [title for title, _ in known.values()]
    cells = [[form.format(row[key]) if key in row else "-" for key, (_, form) in known.items()] for row in rows]
    return [header, *cells]


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
