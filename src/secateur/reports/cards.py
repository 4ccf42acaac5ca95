"""What a run says on its student's card: how it was made, and what was measured. The card itself is export's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from secateur.config.corpus import CorpusSettings
from secateur.config.distillation import DistillationSettings
from secateur.config.pruning import BudgetSettings
from secateur.config.reading import dump_recipe
from secateur.config.recipe import CreationRecipe, PruningRecipe, Recipe
from secateur.data.counting import say_count
from secateur.data.sources import source_name
from secateur.evaluation.intervals import share_interval
from secateur.evaluation.leaderboard import Scores, dump_scores
from secateur.export.card import HELD_OUT_KEY, benchmark_results, make_card, read_held_out, retrieval_results
from secateur.export.origin import Origin, bare_name, find_origin, hide_path, hide_paths, read_origin
from secateur.reports.display import StageTable
from secateur.reports.text import format_benchmark

LANGUAGES = ("en", "ru")
ENOUGH_PAIRS = 30  # held-out pairs for a claim of languages
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
    origin = find_origin(recipe.teacher.model)
    is_drawn = recipe.budget.initialization == "random"
    start = " Its weights began as random numbers." if is_drawn else ""
    budget = f"{say_budget(recipe.budget)}.{start}{say_rounds(recipe.budget)}{say_criterion(recipe)}"
    text = f"""{say_kind(rows)} of {rows[-1]["parameters"]:,} parameters, cut from
{origin.name} ({rows[0]["parameters"]:,}) with secateur: {budget}
It was {say_repairs(recipe, step, repaired=is_repaired(rows))}."""
    parts = [text, say_languages(rows), say_sources(recipe.corpus), origin.gaps]
    return fill_card(
        recipe, "\n".join(filter(None, parts)), rows, scores, tag="pruned", first=IMPORT,
        origin=replace(origin, base_model=None) if is_drawn else origin,
        has_record=step is not None if has_record is None else has_record,
    )  # fmt: skip


def is_repaired(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a repair that was asked for was kept: else the student was cut, and is in no row repaired."""
    stages = {row["stage"] for row in rows}
    return "repaired" in stages or "pruned" not in stages


def find_languages(row: Mapping[str, Any]) -> list[str]:
    """Return the languages that a row of the stage table shows an encoder to know: both, or none.

    It knows them if it is more likely than not to find a sentence's translation, in both directions: the 95% intervals
    of retrieval accuracy@1 lie above one half. The bound is the student's own, not a share of the teacher's: that a
    teacher finds as little is no evidence for either. Of fewer than ENOUGH_PAIRS length and signs alone tell many
    translations apart. Where a row does not say how many pairs there were, the accuracies themselves count.
    """
    pairs = row.get("pairs")
    shares = [row[way] for way in ("en_ru", "ru_en")]
    lows = shares if pairs is None else [share_interval(share, pairs)[0] for share in shares]
    return list(LANGUAGES) if min(lows) > 0.5 and (pairs is None or pairs >= ENOUGH_PAIRS) else []


def say_kind(rows: Sequence[Mapping[str, Any]]) -> str:
    return "An English-Russian sentence encoder" if find_languages(rows[-1]) else "A sentence encoder"


def say_languages(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return why the card names no languages, beside what the teacher finds; empty: it names them."""
    student, teacher = rows[-1], rows[0]
    if find_languages(student):
        return ""
    few = student.get("pairs", ENOUGH_PAIRS) < ENOUGH_PAIRS
    if few:
        return f"No language is named: {say_count(student['pairs'], 'held-out pair')} cannot show which it knows."
    found, own = (f"{row['en_ru']:.0%} from English and {row['ru_en']:.0%} from Russian" for row in (student, teacher))
    return f"No language is named: of held-out sentences it finds too few translations, {found}; its teacher {own}."


def say_criterion(recipe: PruningRecipe) -> str:
    """Return whose way of scoring heads and neurons was used, where it is that of a paper."""
    budget = recipe.budget
    is_scored = any(axis not in (None, 1) for axis in (budget.heads, budget.neurons, budget.hidden))
    if recipe.saliency.criterion != "taylor_weight" or not (is_scored or say_limits(budget)):
        return ""
    return " Heads and neurons were scored by the sum of |w dL/dw| over their weights (Petrov & Sentyurev 2024)."


def say_sources(corpus: CorpusSettings) -> str:
    """Return where the sentence pairs came from: the names of files, not their places."""
    files = [each if isinstance(each, str) else each[0] for each in corpus.files]
    names = [source_name(Path(bare_name(file))) for file in files]
    names += [hide_path(each.name) for each in corpus.datasets]
    names += [f"translations inside {say_count(len(corpus.catalogs), 'package')}"] if corpus.catalogs else []
    names += [f"the {corpus.words:,} most frequent words of each language"] if corpus.words else []
    return f"Sentence pairs: {', '.join(dict.fromkeys(names))}." if names else ""


def say_rounds(budget: BudgetSettings) -> str:
    """Return what gradual pruning did; nothing: the student was not trained between cuts."""
    if not budget.gradual_steps:
        return ""
    trained = say_count(budget.gradual_steps, "step")
    return f" It was cut in {budget.rounds:,} rounds, with {trained} of training after each but the last."


def say_repairs(recipe: PruningRecipe, step: int | None, *, repaired: bool = True) -> str:
    """Return what was done to win back what the cut lost, and what of it was kept."""
    after = " after the last cut" if recipe.budget.gradual_steps else ""
    trained = say_training(recipe.distillation, step) + (after if not recipe.distillation.steps else "")
    if not recipe.repair.sentences or recipe.budget.initialization == "random":  # random weights are not repaired
        return trained
    if not repaired:
        return f"{trained}; a repair in closed form was tried, did not improve it on held-out pairs and is not kept"
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
        why = ", the best on held-out pairs," if settings.keep == "best" else ""
        return f"distilled for {steps}{source}; the student of step {step:,}{why} is kept"
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
    return "; ".join([*parts, *say_limits(budget)])


def say_limits(budget: BudgetSettings) -> list[str]:
    """Return what the student may cost, in words."""
    limits = {
        "{:,} of the teacher's parameters": budget.share,
        "{:,} parameters": budget.params,
        "{:,} MB": budget.mb,
        "{:,} ms a sentence": budget.ms,
    }
    return [f"at most {form.format(limit)}" for form, limit in limits.items() if limit is not None]


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
    origin = find_origin(student.body.model) if student.body and student.body.model else None
    if origin is not None:
        start = origin.name
    else:
        start = student.body.wheel.name if student.body and student.body.wheel else "random weights"
    words = f"a new vocabulary of {student.vocabulary.size:,} tokens" if student.vocabulary else "its own vocabulary"
    names = " + ".join(" x ".join(map(hide_path, part.split(" x "))) for part in teacher.split(" + "))
    text = f"""{say_kind(rows)} of {rows[-1]["parameters"]:,} parameters, made with secateur:
{start} with {words}, {say_training(recipe.distillation, step, f" from the vectors of {names}")}."""
    parts = [text, say_languages(rows), say_sources(recipe.corpus), origin.gaps if origin else ""]
    tag = "distilled" if recipe.distillation.steps and step != 0 else ""
    return fill_card(
        recipe, "\n".join(filter(None, parts)), rows, scores, tag=tag, first="", origin=origin, has_record=True
    )


def write_trained_card(
    card: str,
    name: str,
    teacher: str,
    settings: DistillationSettings,
    rows: Sequence[Mapping[str, Any]],
    step: int,
    *,
    held_out: float,
) -> str:
    """Return the README.md of a model, with this card or none, that was trained on: the card's numbers were of another.

    Of the old card stays where its weights come from and under which licence. One that training did not improve, step
    0, keeps its card.
    """
    if not step:
        return card
    origin = read_origin(card, name)
    text = f"""{say_kind(rows)} of {rows[-1]["parameters"]:,} parameters: {name},
{say_training(settings, step, f" from the vectors of {hide_path(teacher)}")}."""
    parts = [text, say_languages(rows), origin.gaps]
    languages = find_languages(rows[-1])
    kept_apart = {HELD_OUT_KEY: {"held_out": min(held_out, read_held_out(card) or 1.0)}}  # from every training so far
    return make_card(
        name, say_measures("\n".join(filter(None, parts)), rows, {}, first=""), tags=["distilled"],
        results=list_results(rows[-1], {}),
        metadata=({"language": languages} if languages else {}) | origin.metadata | kept_apart,
    )  # fmt: skip


def write_vocabulary_card(model: str, name: str, languages: Sequence[str], kept: int, whole: int) -> str:
    """Return the README.md of a model that reads with fewer tokens: what it keeps of its old card is its origin."""
    origin = find_origin(model)
    text = (
        f"{origin.name} with {kept:,} of its {whole:,} tokens, those that texts in {', '.join(languages)} need, "
        f"trimmed with secateur. Everything else is as it was. {origin.gaps}"
    )
    return make_card(name, text, tags=["pruned"], metadata=origin.metadata)


def fill_card(
    run: Recipe,
    text: str,
    rows: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Scores],
    *,
    tag: str,
    first: str,
    origin: Origin | None,
    has_record: bool,
) -> str:
    """Return the card of the student in the last of `rows`; `first` is a line that its code begins with."""
    recipe = json.dumps(used_keys(run, has_record=has_record, scored=bool(scores)), indent=2, ensure_ascii=False)
    body = f"""{say_measures(text, rows, scores, first=first)}
<details><summary>Recipe</summary>

```json
{recipe}
```
</details>
"""
    languages = find_languages(rows[-1])
    metadata = ({"language": languages} if languages else {}) | (origin.metadata if origin else {})
    metadata[HELD_OUT_KEY] = {"held_out": run.corpus.held_out}
    tags, results = [tag] if tag else [], list_results(rows[-1], scores)
    return make_card(run.name, body, tags=tags, results=results, metadata=metadata)


def list_results(student: Mapping[str, Any], scores: Mapping[str, Scores]) -> list[EvalResult]:
    """Return what was measured of the student, a row of the stage table, as metadata holds it."""
    enough = student.get("pairs", ENOUGH_PAIRS) >= ENOUGH_PAIRS  # of fewer, text alone says what was measured
    ways = {way: student[way] for way in ("en_ru", "ru_en")} if enough else {}
    results = retrieval_results(ways, pairs=say_judged(student))
    return results + (list_benchmark(scores[student["stage"]]) if student["stage"] in scores else [])


def say_measures(text: str, rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Scores], *, first: str) -> str:
    """Return a card's text, how the student is used, and the tables; `first` is a line that the code begins with."""
    benchmark = f"\n```\n{format_benchmark(scores)}\n```\n" if scores else ""
    return f"""{text}

```python
{first}from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("PATH").encode(["Hello, world", "Привет, мир"])
```

Measured on held-out pairs:

```
{StageTable(rows)}
```
{benchmark}"""


def used_keys(run: Recipe, *, has_record: bool, scored: bool) -> dict[str, Any]:
    """Return a recipe as a card shows it: without the corpus, which may name private files, and what was not used."""
    gradual = isinstance(run, PruningRecipe) and run.budget.gradual_steps
    used = {
        "corpus": has_record,
        "distillation": bool(run.distillation.steps or gradual),
        "encodechka": scored,
        "tracking": has_record,
    }
    plain = {key: hide_paths(value) for key, value in dump_recipe(run).items() if used.get(key, True)}
    return plain | ({"corpus": "in the run's recipe.json"} if has_record else {})


def say_judged(student: Mapping[str, Any]) -> str:
    """Return the pairs that retrieval was measured on; how many is said where it is known."""
    if "pairs" not in student:
        return "held out by the run"
    return f"{say_count(student['pairs'], 'pair')} held out by the run"


def list_benchmark(scores: Scores) -> list[Any]:
    """Return a student's own scores as a card's metadata holds them; what is undefined is left out."""
    plain = dump_scores(scores)
    tasks = {task: vectors["own"] for task, vectors in plain["tasks"].items()}
    mean = "Mean S" if scores.benchmark == "encodechka" else "mean of the sentence tasks"
    return benchmark_results({mean: plain["mean_s"]["own"], **tasks}, benchmark=scores.benchmark)
