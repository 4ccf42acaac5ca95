"""What a run says on its student's card: how it was made, and what was measured. The card itself is export's."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from secateur.config.distillation import DistillationSettings
from secateur.config.pruning import BudgetSettings
from secateur.config.reading import dump_recipe
from secateur.config.recipe import CreationRecipe, PruningRecipe, Recipe
from secateur.data.counting import say_count
from secateur.evaluation.leaderboard import Scores, dump_scores
from secateur.export.card import benchmark_results, make_card, read_license, retrieval_results
from secateur.reports.display import StageTable
from secateur.reports.text import format_benchmark

IMPORT = "import secateur  # registers the pruned model type; without it pass trust_remote_code=True\n"


def write_card(
    recipe: PruningRecipe,
    rows: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Scores],
    *,
    step: int | None = None,
    has_record: bool | None = None,
) -> str:
    """Return the README.md of a student that was cut from its teacher, from measured numbers only.

    `rows` are the stage table's, the teacher's first and the student's last; `scores` are those of the benchmark.
    `step` is the one whose student was kept, 0 the student before training; None: that of the recipe's last step.
    `has_record`: whether a run's record keeps what the card leaves out (where there is a step).
    """
    start = "" if recipe.budget.initialization == "teacher" else " Its weights began as random numbers."
    budget = f"{say_budget(recipe.budget)}.{start}{say_rounds(recipe.budget)}"
    text = f"""An English-Russian sentence encoder of {rows[-1]["parameters"]:,} parameters, cut from
{recipe.teacher.model} ({rows[0]["parameters"]:,}) with secateur: {budget}
It was {say_repairs(recipe, step)}."""
    return fill_card(
        recipe, text, rows, scores, tag="pruned", first=IMPORT, license_name=read_license(recipe.teacher.model),
        has_record=step is not None if has_record is None else has_record,
    )  # fmt: skip


def say_rounds(budget: BudgetSettings) -> str:
    """Return what gradual pruning did; nothing: the student was not trained between cuts."""
    if not budget.gradual_steps:
        return ""
    trained = say_count(budget.gradual_steps, "step")
    return f" It was cut in {budget.rounds:,} rounds, with {trained} of training after each but the last."


def say_repairs(recipe: PruningRecipe, step: int | None) -> str:
    """Return what was done to win back what the cut lost."""
    after = " after the last cut" if recipe.budget.gradual_steps else ""
    trained = say_training(recipe.distillation, step) + (after if not recipe.distillation.steps else "")
    if not recipe.repair.sentences or recipe.budget.initialization == "random":  # random weights are not repaired
        return trained
    return f"repaired in closed form, {'then' if recipe.distillation.steps else 'but'} {trained}"


def say_training(settings: DistillationSettings, step: int | None, source: str = "") -> str:
    """Return how long a student was trained, and which of its steps was kept; None: the last."""
    steps = say_count(settings.steps, "step")
    if not settings.steps:
        return "not trained"
    if step == 0:
        none = "which did not improve it" if settings.steps == 1 else "none of which improved it"
        return f"trained for {steps}{source}, {none} on held-out pairs: the student before training is kept"
    if step is not None and step < settings.steps:
        return f"distilled for {steps}{source}; the student of step {step:,}, the best on held-out pairs, is kept"
    return f"distilled for {steps}{source}"


def say_budget(budget: BudgetSettings) -> str:
    """Return a budget in words: what is kept of an axis, what the student may cost."""
    shares = {"heads": budget.heads, "neurons": budget.neurons, "hidden width": budget.hidden}
    kept = [f"{'all' if share == 1 else share} of the {axis}" for axis, share in shares.items() if share is not None]
    kept += [
        say_count(count, noun) for noun, count in (("layer", budget.layers), ("token", budget.vocabulary)) if count
    ]
    parts = [f"{' and '.join(filter(None, [', '.join(kept[:-1]), kept[-1]]))} kept"] if kept else []
    parts += [f"word embeddings of rank {budget.rank:,}"] if budget.rank else []
    limits = {
        "{:,} of the teacher's parameters": budget.share,
        "{:,} parameters": budget.params,
        "{:,} MB": budget.mb,
        "{:,} ms a sentence": budget.ms,
    }
    parts += [f"at most {form.format(limit)}" for form, limit in limits.items() if limit is not None]
    return "; ".join(parts)


def write_making_card(
    recipe: CreationRecipe,
    teacher: str,
    rows: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Scores],
    *,
    step: int | None = None,
) -> str:
    """Return the README.md of an encoder made from others' vectors, from measured numbers only; `step` as above."""
    student = recipe.student
    start = student.body.model or (student.body.wheel and student.body.wheel.name) if student.body else "random weights"
    words = f"a new vocabulary of {student.vocabulary.size:,} tokens" if student.vocabulary else "its own vocabulary"
    text = f"""An English-Russian sentence encoder of {rows[-1]["parameters"]:,} parameters, made with secateur:
{start} with {words}, {say_training(recipe.distillation, step, f" from the vectors of {teacher}")}."""
    return fill_card(recipe, text, rows, scores, tag="distilled", first="", license_name=None, has_record=True)


def fill_card(
    run: Recipe,
    text: str,
    rows: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Scores],
    *,
    tag: str,
    first: str,
    license_name: str | None,
    has_record: bool,
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
{StageTable(rows)}
```
{benchmark}
<details><summary>Recipe</summary>

```json
{json.dumps(used_keys(run, has_record=has_record, scored=bool(scores)), indent=2, ensure_ascii=False)}
```
</details>
"""
    return make_card(run.name, body, tags=[tag], results=results, license_name=license_name)


def used_keys(run: Recipe, *, has_record: bool, scored: bool) -> dict[str, Any]:
    """Return a recipe as a card shows it: without the corpus, which may name private files, and what was not used."""
    gradual = isinstance(run, PruningRecipe) and run.budget.gradual_steps
    used = {
        "corpus": has_record,
        "distillation": bool(run.distillation.steps or gradual),
        "encodechka": scored,
        "tracking": has_record,
    }
    plain = {key: value for key, value in dump_recipe(run).items() if used.get(key, True)}
    return plain | ({"corpus": "in the run's recipe.json"} if has_record else {})


def list_benchmark(scores: Scores) -> list[Any]:
    """Return a student's own scores as a card's metadata holds them; what is undefined is left out."""
    plain = dump_scores(scores)
    tasks = {task: vectors["own"] for task, vectors in plain["tasks"].items()}
    mean = "Mean S" if scores.benchmark == "encodechka" else "mean of the sentence tasks"
    return benchmark_results({mean: plain["mean_s"]["own"], **tasks}, benchmark=scores.benchmark)
