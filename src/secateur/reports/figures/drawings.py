"""A run's pictures: saliency, what was cut, losses, validation, quality against cost, drift.

The page and ClearML show the same ones. What a pointer should be told about a shape is its gid, behind TIP.
"""

from collections.abc import Iterator, Sequence

import matplotlib
from matplotlib.figure import Figure

from secateur.reports.figures.costs import QUALITIES, cosine_points, draw_cost, mean_points
from secateur.reports.figures.curves import draw_curves, draw_retrieval, find_curves
from secateur.reports.figures.drawing import COSTS, TRAINING, Drawing, note_start
from secateur.reports.figures.drift import draw_languages, draw_lengths
from secateur.reports.figures.saliency import draw_cut, draw_heads, draw_neurons
from secateur.reports.record import Record


@matplotlib.rc_context({"text.parse_math": False})  # a name with dollars in it is no formula
def draw_figures(records: Sequence[Record]) -> list[Drawing]:
    """Return every picture that the records have the numbers for."""
    return [
        *(drawing for record in records for drawing in list_saliency(record)),
        *list_training(records),
        *list_costs(records),
        *(drawing for record in records for drawing in list_drift(record)),
    ]


def list_saliency(record: Record) -> Iterator[Drawing]:
    saliency, kept = record.saliency, record.kept
    if saliency is None:
        return
    yield Drawing("heads", "Heads, by layer", draw_heads(saliency, kept), record)
    yield Drawing("neurons", "Neurons, by layer", draw_neurons(saliency, kept), record)
    if kept is not None:
        yield Drawing("cuts", "Heads and neurons kept, by layer", draw_cut(saliency, kept), record)


def list_training(records: Sequence[Record]) -> Iterator[Drawing]:
    for name, title in TRAINING.items():
        if any(find_curves(records, name)):
            yield note_drawing("training", title, draw_curves(records, {name: title}))
    if any(find_curves(records, "validation/en_ru")):
        yield note_drawing("training", "Validation: retrieval accuracy@1", draw_retrieval(records))


def list_costs(records: Sequence[Record]) -> Iterator[Drawing]:
    for quality, points_of in {"cosine": cosine_points, "mean": mean_points}.items():
        for cost, label in COSTS.items():
            points = points_of(records, cost)
            if len(points) > 1:
                title = f"{'Cosine' if quality == 'cosine' else 'Mean score'} against {label}"
                yield note_drawing("cost", title, draw_cost(points, label, QUALITIES[quality]))


def list_drift(record: Record) -> Iterator[Drawing]:
    if record.drift is not None:
        languages, lengths = draw_languages(record.drift), draw_lengths(record.drift)
        yield Drawing("drift", "By language", languages, record, note=note_start(languages, "horizontal"))
        yield Drawing(
            "drift", "By length", lengths, record, note=f"Bars: 95% intervals. {note_start(lengths)}".rstrip()
        )


def note_drawing(section: str, title: str, figure: Figure) -> Drawing:
    """Return a picture of all records, which says where its vertical axis starts."""
    return Drawing(section, title, figure, note=note_start(figure))
