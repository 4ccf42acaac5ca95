"""One run, or several side by side, as a page: one file that fetches nothing, for phones and desks, light and dark."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from secateur import __version__
from secateur.config.errors import InputError
from secateur.data.counting import say_count
from secateur.data.files import write_text
from secateur.evaluation.leaderboard import mean_s
from secateur.reports.cells import Block, Folded, Note, Picture, Section, Table
from secateur.reports.figures.drawing import FAINT, GRID, INK, MUTED, SERIES, TIP, Drawing
from secateur.reports.figures.drawings import draw_figures
from secateur.reports.record import Record, find_run, read_record
from secateur.reports.render import render
from secateur.reports.svg import draw_svg
from secateur.reports.tables import (
    say_state,
    tabulate_axes,
    tabulate_benchmark,
    tabulate_changes,
    tabulate_costs,
    tabulate_held_out,
    tabulate_languages,
    tabulate_layers,
    tabulate_lengths,
    tabulate_recipe,
    tabulate_runs,
    tabulate_worst,
)
from secateur.reports.verdict import say_verdict

# The colours of the drawings, and the page's names for them; a dark page gives the names other values.
COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    FAINT: "var(--faint)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
}


@dataclass(frozen=True)
class Tile:
    """A number that is worth a line of its own."""

    value: str
    label: str
    detail: str = ""


def report_runs(names: Sequence[str], runs: Path, out: Path | None) -> Path:
    """Write the page of one run into its record, or of several into `runs`, or into `out`; return where it is.

    Raises InputError: no such run, a record with nothing to show, a place that cannot be written to.
    """
    folders = [find_run(name, runs) for name in dict.fromkeys(names)]
    records = [read_record(folder) for folder in folders]
    for folder, record in zip(folders, records, strict=True):
        if record.is_empty:
            reason = "nothing of it can be read" if record.flaws else "nothing was measured yet"
            raise InputError(f"{folder}: the record has nothing to show: {reason}")
    beside = (
        folders[0] / "report.html" if len(folders) == 1 else runs / f"{'+'.join(each.name for each in folders)}.html"
    )
    path = out or beside
    try:
        write_page(records, draw_figures(records), path)
    except (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
        raise InputError(f"{path}: cannot be written to ({error.strerror})") from None
    return path


def write_page(records: Sequence[Record], drawings: Sequence[Drawing], path: Path) -> None:
    """Write the page of these runs; the file appears whole or not at all."""
    page = build_page(records, drawings)
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))  # a record may hold half of a surrogate pair


def build_page(records: Sequence[Record], drawings: Sequence[Drawing]) -> str:
    """Return the page of these runs as HTML; `drawings` is what `draw_figures` makes of them."""
    asset = files("secateur.reports") / "templates"
    return render(
        "report.html",
        title=" · ".join(record.name for record in records),
        records=[(record, say_state(record), say_time(record.changed)) for record in records],
        verdicts=[(record.name, say_verdict(record)) for record in records],
        tiles=make_tiles(records[0]) if len(records) == 1 else [],
        sections=[build(records, drawings) for build in SECTIONS],
        version=__version__,
        style=Markup((asset / "report.css").read_text(encoding="utf-8")),
        script=Markup((asset / "report.js").read_text(encoding="utf-8")),
        kind=lambda block: type(block).__name__,
    )


def say_time(seconds: float) -> str:
    return time.strftime("%d %B %Y, %H:%M", time.localtime(seconds)).lstrip("0")


def make_tiles(record: Record) -> list[Tile]:
    """Return what a run came to, the teacher's numbers beside the student's."""
    if not record.stages:
        return []
    first, last = record.stages[0], record.stages[-1]
    tiles = []
    for key, label, form in (("parameters", "parameters", "{:.1f}M"), ("mb", "megabytes", "{:.1f}"),
                             ("ms", "ms a sentence", "{:.1f}")):  # fmt: skip
        if key not in last:
            continue
        scale = 1e6 if key == "parameters" else 1
        known = key in first and first[key]
        detail = f"teacher {form.format(first[key] / scale)} · {100 * last[key] / first[key]:.0f}%" if known else ""
        tiles.append(Tile(form.format(last[key] / scale), label, detail))
    if "cosine" in last:
        judged = say_count(last["pairs"], "held-out pair") if "pairs" in last else "held-out pairs"
        tiles.append(Tile(f"{last['cosine']:.3f}", "cosine to the teacher", judged))
    means = {name: mean_s(each.own) for name, each in (record.scores or {}).items()}
    mean = means.get(last["stage"])
    if mean is not None:
        base = means.get("teacher")
        detail = f"teacher {base:.3f} · {100 * mean / base:.1f}%" if base else ""
        tiles.append(Tile(f"{mean:.3f}", f"mean of {name_benchmark(record)}'s tasks", detail))
    return tiles


def name_benchmark(record: Record) -> str:
    name = next((each.benchmark for each in (record.scores or {}).values()), "")
    return "the probe" if name == "probe" else name


def pick(
    drawings: Sequence[Drawing], section: str, records: Sequence[Record], record: Record | None = None
) -> list[Picture]:
    """Return a section's drawings, of one run or of all together, as pictures of the page."""
    return [frame(each, records) for each in drawings if each.section == section and each.record is record]


def frame(drawing: Drawing, records: Sequence[Record]) -> Picture:
    title = named(drawing.title, drawing.record, records) if drawing.record else drawing.title
    owner = drawing.record.name if drawing.record else "all"
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{owner}-{drawing.section}-{title}")
    svg = draw_svg(drawing.figure, name=name, label=title, colours=COLOURS, tip=TIP)
    return Picture(Markup(svg), title, drawing.note)


def named(title: str, record: Record, records: Sequence[Record]) -> str:
    return title if len(records) == 1 else f"{record.name}: {title}"


def missing(record: Record, records: Sequence[Record], what: str) -> Note:
    """Say that something is not there yet, or was never kept."""
    if record.flaws:
        reason = "is not in what can be read of this run's record"
    else:
        reason = "is not in this run's record" if record.has_ended else "is not there yet: the run has not ended"
    return Note(named(f"{what} {reason}.", record, records))


def show_scores(records: Sequence[Record], drawings: Sequence[Drawing]) -> Section:
    section = Section("scores", "Scores", "What each encoder is worth and what it costs, the teacher first.")
    if len(records) > 1:
        section.blocks.append(tabulate_runs(records))
    for record in records:
        if not record.stages:
            section.blocks.append(missing(record, records, "The table of scores"))
            continue
        blocks: list[Block] = [tabulate_costs(record), tabulate_held_out(record)]
        if record.scores:
            blocks.append(tabulate_benchmark(record.scores, f"The tasks of {name_benchmark(record)}"))
        else:
            blocks.append(Note("No benchmark was scored."))
        section.blocks.extend(blocks if len(records) == 1 else [Folded(record.name, blocks)])
    return section


def show_costs(records: Sequence[Record], drawings: Sequence[Drawing]) -> Section:
    section = Section(
        "cost", "Quality against cost",
        "Up is better, left is cheaper. The line joins what no other encoder beats in both: the Pareto front.",
    )  # fmt: skip
    section.blocks.extend(pick(drawings, section.id, records))
    if not section.blocks:
        section.blocks.extend(missing(record, records, "What the encoders cost") for record in records)
    return section


def show_heads(records: Sequence[Record], drawings: Sequence[Drawing]) -> Section:
    lead = "How much each head matters: the brighter, the more. Crossed heads were cut. Layers are counted from 0."
    return show_saliency(Section("heads", "Head saliency", lead), records, drawings)


def show_neurons(records: Sequence[Record], drawings: Sequence[Drawing]) -> Section:
    lead = (
        "Each row is a layer, its FFN neurons sorted from the most important, on the left, to the least, on the right. "
        "The white line shows how many were kept: the share to its left was kept, the share to its right was cut."
    )
    return show_saliency(Section("neurons", "Neuron saliency", lead), records, drawings)


def show_saliency(section: Section, records: Sequence[Record], drawings: Sequence[Drawing]) -> Section:
    """Return the section of an axis, its id, with each record's map and the numbers beside it."""

    def blocks(record: Record) -> list[Block]:
        if record.saliency is None:
            return []
        table = retitle(tabulate_layers(record, section.id), record, records)
        return [*pick(drawings, section.id, records, record), table]

    return show_each(section, records, "Saliency", blocks)


def show_cuts(records: Sequence[Record], drawings: Sequence[Drawing]) -> Section:
    def blocks(record: Record) -> list[Block]:
        found: list[Block] = [*pick(drawings, "cuts", records, record)]
        if record.plan is not None and record.whole is not None:
            found.append(retitle(tabulate_axes(record), record, records))
        return found

    return show_each(Section("cuts", "What was cut", "Every fraction is what was kept."), records, "A cut", blocks)


def retitle(table: Table, record: Record, records: Sequence[Record]) -> Table:
    return replace(table, title=named(table.title, record, records))


def show_each(
    section: Section, records: Sequence[Record], what: str, blocks: Callable[[Record], Sequence[Block]]
) -> Section:
    """Return the section with the blocks of every record, or a word on why a record has none."""
    for record in records:
        made = not record.prunes and section.id in ("heads", "neurons", "cuts")
        found = blocks(record)
        if made:
            section.blocks.append(Note(named("This run made a new encoder: nothing was cut.", record, records)))
        else:
            section.blocks.extend(found or [missing(record, records, what)])
    return section


def show_training(records: Sequence[Record], drawings: Sequence[Drawing]) -> Section:
    lead = "Each term of the loss and the held-out scores over the steps of distillation."
    if len(records) == 1 and records[0].step is not None:
        lead += say_step(records[0].step, records[0].steps, keep=records[0].distillation.get("keep", "best"))
    section = Section("training", "Training", lead)
    for record in records:
        if not any("train/loss" in key for line in record.metrics for key in line):
            section.blocks.append(Note(named("No losses were recorded.", record, records)))
    section.blocks.extend(pick(drawings, section.id, records))
    return section


def say_step(step: int, steps: int, *, keep: str) -> str:
    """Return which student of so many steps was kept, by what rule; step 0 is the one before training."""
    if not steps:
        return " The recipe asks for no distillation."
    if not step:
        why = "" if keep == "last" else " No step improved the student on held-out pairs:"
        return f"{why} {'the' if why else 'The'} student before training was kept."
    which = "" if keep != "last" else ", the last," if step >= steps else ", the last that was sound,"
    return f" The checkpoint of step {step:,}{which or ', the best on held-out pairs,'} was kept."


def show_drift(records: Sequence[Record], drawings: Sequence[Drawing]) -> Section:
    def blocks(record: Record) -> list[Block]:
        drift = record.drift
        if drift is None:
            return []
        folded = Folded(named("By length, in numbers", record, records), [tabulate_lengths(drift)])
        worst = tabulate_worst(drift)
        return [
            *pick(drawings, "drift", records, record),
            retitle(tabulate_languages(drift), record, records),
            folded,
            worst if len(records) == 1 else Folded(named(worst.title, record, records), [worst]),
        ]

    lead = "Where the student's vectors of held-out sentences left the teacher's: 1 is the teacher's own vector."
    return show_each(Section("drift", "Drift", lead), records, "Where vectors drifted", blocks)


def show_recipes(records: Sequence[Record], drawings: Sequence[Drawing]) -> Section:
    section = Section("recipe", "Recipe", "Every key as it was resolved, defaults included.")
    if len(records) > 1:
        section.blocks.append(tabulate_changes(records))
    section.blocks.extend(
        Folded(named("The resolved recipe", record, records), [tabulate_recipe(record)]) for record in records
    )
    return section


SECTIONS: tuple[Callable[[Sequence[Record], Sequence[Drawing]], Section], ...] = (
    show_scores, show_costs, show_heads, show_neurons, show_cuts, show_training, show_drift, show_recipes,
)  # fmt: skip
