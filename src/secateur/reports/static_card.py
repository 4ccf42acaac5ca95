"""The card of a student without layers."""

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.config.recipe import PruningRecipe
from secateur.export.origin import find_origin
from secateur.reports.cards import fill_card, say_kind, say_languages, say_sources


def write_static_card(recipe: PruningRecipe, rows: Sequence[Mapping[str, Any]], sentences: int) -> str:
    """Return the README.md of a bag of token vectors, fitted on so many sentences; `rows` are the stage table's, the
    teacher's and the student's."""
    origin = find_origin(recipe.teacher.model)
    text = f"""{say_kind(rows)} of {rows[-1]["parameters"]:,} parameters without a transformer: a vector for
each token, whose mean a linear layer brings to the dimension of {origin.name} ({rows[0]["parameters"]:,} parameters).
The vectors were fitted in closed form, with secateur, to those of that model for {sentences:,} sentences. No prompt
stands before a sentence, and the order of words does not count."""
    parts = [text, say_languages(rows), say_sources(recipe.corpus), origin.gaps]
    return fill_card(
        recipe, "\n".join(filter(None, parts)), rows, {}, tag="static", first="", origin=origin, has_record=False
    )
