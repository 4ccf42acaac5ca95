"""Cut and repair without training: one student, a nested family, or the vocabulary alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate.utils import set_seed

from secateur.config.recipe import PruningRecipe
from secateur.config.teacher import TeacherSettings
from secateur.data.corpus import load_corpus
from secateur.data.files import whole_folder, write_json
from secateur.data.sources import Row, read_lines
from secateur.encoders.device import pick_device
from secateur.encoders.encoder import TorchEncoder
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
from secateur.reports.display import PlanTable, StageTable
from secateur.reports.figures.costs import draw_family
from secateur.reports.text import format_coverage
from secateur.runs.bookkeeping import stage
from secateur.runs.student import Student


def cut_vocabulary(model: str, files: Mapping[str, Path], size: int, out: Path, *, fold: bool) -> str:
    """Trim a model's vocabulary for the texts of some languages and save it in `out`; return the coverage report."""
    texts = {language: read_lines(path) for language, path in files.items()}
    encoder = load_encoder(TeacherSettings(model=model))
    trimmed = trim_vocabulary(encoder, texts, size, fold=fold)
    save_encoder(trimmed.encoder, out)
    tokenizers = fast_tokenizer(encoder), fast_tokenizer(trimmed.encoder)
    return format_coverage(trimmed.kept, measure_coverage(*tokenizers, texts, trimmed.kept))


@dataclass(frozen=True)
class PlannedPruning:
    """A teacher that is measured and planned for, not cut yet."""

    inputs: PlanningInputs
    held_out: HeldOut
    plan: Plan
    cache: Path

    @property
    def summary(self) -> PlanTable:
        """What the plan keeps of each axis, and what it is predicted to cost and to lose."""
        return PlanTable(self.plan, describe(self.inputs.teacher))

    def cut(self) -> Student:
        """Cut the teacher as planned, repair it, and measure both on held-out pairs."""
        with stage("cut and repair"):
            result = cut_and_repair(self.inputs, self.plan.sizes, progress="repair")
        encoders = {"teacher": self.inputs.teacher, "pruned": result.pruned, "repaired": result.repaired}
        recipe = self.inputs.recipe
        rows = score_stages(encoders, self.held_out, runtime=recipe.budget.runtime)
        summary = PlanTable(self.plan, describe(self.inputs.teacher), result.kept)
        return Student(result.repaired, summary, StageTable(rows), recipe)


def plan_pruning(
    recipe: PruningRecipe, *, cache: Path, teacher: TorchEncoder | None = None, given: Sequence[Row] | None = None
) -> PlannedPruning:
    """Measure a teacher and choose what is kept: what the budget names or, under a limit, what loses least.

    `teacher` and `given`, rows of pairs, take the place of what the recipe names. Raises InputError: a model or a
    corpus that cannot be used, a budget that nothing fits.
    """
    inputs, held_out = prepare(recipe, cache, teacher=teacher, given=given)
    with stage("plan"):
        plan = make_plan(inputs, progress="trial cuts")
    return PlannedPruning(inputs, held_out, plan, cache)


def prepare(
    recipe: PruningRecipe, cache: Path, *, teacher: TorchEncoder | None = None, given: Sequence[Row] | None = None
) -> tuple[PlanningInputs, HeldOut]:
    """Load and measure what a cut without training needs."""
    device = pick_device(recipe.device)
    set_seed(recipe.seed)
    teacher = teacher or load_encoder(recipe.teacher, device=device)
    corpus = load_corpus(recipe.corpus, cache, given=given)
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
        solver = prepare_solver(inputs, limits, progress="trial cuts")
        plans: list[Plan] = []
        for each in limits:
            plans.append(solver.solve(each, within=plans[-1].sizes if plans else None))
    for plan in plans:
        print(PlanTable(plan, solver.shape), end="\n\n")
    if dry_run or out is None:
        return
    names = [f"{budget.share:g}" for budget in budgets]
    encoders = {"teacher": inputs.teacher}
    with stage("cut and repair"):
        students = cut_nested_family(inputs, [plan.sizes for plan in plans], progress="repair")
        encoders |= {name: cut_result.repaired for name, cut_result in zip(names, students, strict=True)}
    rows = score_stages(encoders, held_out, runtime=recipe.budget.runtime)
    with whole_folder(out) as temporary:
        for row, budget in zip(rows[1:], budgets, strict=True):
            card = write_card(replace(recipe, budget=budget), [rows[0], row], {})
            save_encoder(encoders[row["stage"]], temporary / row["stage"], card=card)
        write_json(temporary / "family.json", rows)
        draw_family(rows).savefig(temporary / "family.png", dpi=150)
    print(StageTable(rows))
