"""Model cards of runs, from measured numbers only."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from secateur.config.pruning import BudgetSettings
from secateur.config.reading import dump_recipe
from secateur.config.recipe import CreationRecipe, PruningRecipe, Recipe
from secateur.evaluation.leaderboard import Scores
from secateur.reports.text import format_benchmark, format_stages


def write_card(recipe: PruningRecipe, rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Scores]) -> str:
    """Return the student's README.md, from measured numbers only."""
    text = f"""An English-Russian sentence encoder of {rows[-1]["parameters"]:,} parameters, cut from
{recipe.teacher.model} ({rows[0]["parameters"]:,}) with secateur: {say_budget(recipe.budget)}; repaired in
closed form{say_training(recipe.distillation.steps)}."""
    first = "import secateur  # registers the pruned model type; without it pass trust_remote_code=True\n"
    return fill_card(recipe, text, rows, scores, tag="pruned", first=first)


def say_training(steps: int) -> str:
    return f", distilled for {steps} steps" if steps else ", not trained"


def say_budget(budget: BudgetSettings) -> str:
    """Return a budget in words: what is kept of an axis, what the student may cost."""
    fractions = {f"{axis} kept": getattr(budget, axis) for axis in ("heads", "neurons", "hidden")}
    fractions["parameters kept"] = budget.share
    counts = {"layers": budget.layers, "word pieces": budget.vocabulary, "rank of their vectors": budget.rank}
    limits = {"at most parameters": budget.params, "at most MB": budget.mb, "at most ms a sentence": budget.ms}
    named = {**fractions, **counts, **limits}
    return ", ".join(f"{name} {value:,}" for name, value in named.items() if value is not None)


def write_making_card(
    recipe: CreationRecipe, teacher: str, rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Scores]
) -> str:
    """Return the README.md of an encoder made from others' vectors, from measured numbers only."""
    student = recipe.student
    start = student.body.model or (student.body.wheel and student.body.wheel.name) if student.body else "random weights"
    words = f"{student.vocabulary.size:,} new word pieces" if student.vocabulary else "its own word pieces"
    text = f"""An English-Russian sentence encoder of {rows[-1]["parameters"]:,} parameters, made with secateur:
{start} with {words}, distilled for {recipe.distillation.steps} steps from the vectors of {teacher}."""
    return fill_card(recipe, text, rows, scores, tag="distilled", first="")


def fill_card(
    run: Recipe, text: str, rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Scores], *, tag: str, first: str
) -> str:
    benchmark = f"\n```\n{format_benchmark(scores)}\n```\n" if scores else ""
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
language: [en, ru]
tags: [sentence-transformers, feature-extraction, {tag}]
---
# {run.name}

{text}

```python
{first}from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("PATH").encode(["Hello, world", "Привет, мир"])
```

Held-out pairs: cosine to the teacher, and retrieval of each sentence's translation in the pool.

```
{format_stages(rows)}
```
{benchmark}
<details><summary>Recipe</summary>

```json
{json.dumps(dump_recipe(run) | {"corpus": "not repeated here"}, indent=2, ensure_ascii=False)}
```
</details>
"""
