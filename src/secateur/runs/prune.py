"""Cut and repair without training: one student, a nested family, or the vocabulary alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate.utils import set_seed

from secateur.config.recipe import PruningRecipe
from secateur.config.teacher import TeacherSettings
from secateur.data.corpus import load_corpus
from secateur.data.files import whole_folder, write_json
from secateur.data.sources import read_lines
from secateur.encoders.device import pick_device
from secateur.encoders.loading import load_encoder
from secateur.encoders.saving import save_encoder
from secateur.evaluation.scores import HeldOut, embed_held_out, score_stages
from secateur.pruning.cutting import cut_and_repair, cut_nested_family
from secateur.pruning.inputs import PlanningInputs, judged_sentences, measure_on_corpus
from secateur.pruning.plan import make_plan, prepare_solver, set_limits
from secateur.pruning.predictions import Plan
from secateur.pruning.sizes import describe
from secateur.pruning.tokenizer import fast_tokenizer
from secateur.pruning.trimming import measure_coverage, trim_vocabulary
from secateur.reports.cards import write_card
from secateur.reports.figures.costs import draw_family
from secateur.reports.text import format_coverage, format_plan, format_stages
from secateur.runs.bookkeeping import stage


def cut_vocabulary(model: str, files: Mapping[str, Path], size: int, out: Path, *, fold: bool) -> str:
    """Trim a model's vocabulary for the texts of some languages and save it in `out`; return the coverage report."""
    texts = {language: read_lines(path) for language, path in files.items()}
    encoder = load_encoder(TeacherSettings(model=model))
    trimmed = trim_vocabulary(encoder, texts, size, fold=fold)
    save_encoder(trimmed.encoder, out)
    tokenizers = fast_tokenizer(encoder), fast_tokenizer(trimmed.encoder)
    return format_coverage(trimmed.kept, measure_coverage(*tokenizers, texts, trimmed.kept))


def prune(recipe: PruningRecipe, out: Path | None, *, cache: Path, dry_run: bool = False) -> None:
    """Cut and repair a model and save it in `out`: the plan first, then what it came to; `dry_run` stops between."""
    inputs, held_out = prepare(recipe, cache)
    with stage("plan"):
        plan = make_plan(inputs, progress="cuts tried")
    print(format_plan(plan, describe(inputs.teacher)))
    if dry_run or out is None:
        return
    cut_result = cut_and_repair(inputs, plan.sizes, progress="repair")
    encoders = {"teacher": inputs.teacher, "pruned": cut_result.pruned, "repaired": cut_result.repaired}
    rows = score_stages(encoders, held_out, recipe, runtime=recipe.budget.runtime)
    save_encoder(cut_result.repaired, out, card=write_card(recipe, rows, {}))
    print(format_stages(rows))


def prepare(recipe: PruningRecipe, cache: Path) -> tuple[PlanningInputs, HeldOut]:
    """Load and measure what a cut without training needs."""
    device = pick_device(recipe.device)
    set_seed(recipe.seed)
    teacher = load_encoder(recipe.teacher, device=device)
    corpus = load_corpus(recipe.corpus, cache)
    held_out = embed_held_out(teacher, corpus, recipe.validation)
    with stage("saliency"):
        saliency = measure_on_corpus(teacher, corpus.train, recipe)
    return PlanningInputs(teacher, saliency, corpus.train.texts, judged_sentences(corpus, recipe), recipe), held_out


def prune_family(
    recipe: PruningRecipe, fractions: Sequence[float], out: Path | None, *, cache: Path, dry_run: bool = False
) -> None:
    """Cut nested students that keep these fractions of a model's parameters, from one measure of saliency.

    Each is saved in a folder of `out`, named after its fraction, beside family.json and family.png: quality against
    cost, the Pareto front marked.
    """
    inputs, held_out = prepare(recipe, cache)
    budgets = [replace(recipe.budget, share=fraction) for fraction in sorted(fractions, reverse=True)]
    limits = [set_limits(budget, inputs.teacher) for budget in budgets]
    with stage("plan"):
        solver = prepare_solver(inputs, limits, progress="cuts tried")
        plans: list[Plan] = []
        for each in limits:
            plans.append(solver.solve(each, within=plans[-1].sizes if plans else None))
    for plan in plans:
        print(format_plan(plan, solver.shape), end="\n\n")
    if dry_run or out is None:
        return
    names = [f"{budget.share:g}" for budget in budgets]
    encoders = {"teacher": inputs.teacher}
    with stage("cut and repair"):
        students = cut_nested_family(inputs, [plan.sizes for plan in plans], progress="repair")
        encoders |= {name: cut_result.repaired for name, cut_result in zip(names, students, strict=True)}
    rows = score_stages(encoders, held_out, recipe, runtime=recipe.budget.runtime)
    with whole_folder(out) as temporary:
        for row, budget in zip(rows[1:], budgets, strict=True):
            card = write_card(replace(recipe, budget=budget), [rows[0], row], {})
            save_encoder(encoders[row["stage"]], temporary / row["stage"], card=card)
        write_json(temporary / "family.json", rows)
        draw_family(rows).savefig(temporary / "family.png", dpi=150)
    print(format_stages(rows))
