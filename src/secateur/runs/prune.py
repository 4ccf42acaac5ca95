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
from secateur.encoders.cost import count_parameters
from secateur.encoders.device import pick_device
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.loading import load_encoder
from secateur.encoders.saving import save_encoder
from secateur.encoders.surgery import replace_length
from secateur.evaluation.scores import HeldOut, embed_held_out, score_stages
from secateur.pruning.budget import name_sizes
from secateur.pruning.cutting import cut_and_repair, cut_nested_family
from secateur.pruning.inputs import PlanningInputs, judged_sentences, measure_on_corpus
from secateur.pruning.latency import time_cuts
from secateur.pruning.limits import check_limits, set_limits, weigh
from secateur.pruning.plan import make_plan, prepare_solver
from secateur.pruning.predictions import Limits, Plan
from secateur.pruning.sizes import describe
from secateur.pruning.tokenizer import fast_tokenizer
from secateur.pruning.trimming import measure_coverage, trim_vocabulary
from secateur.reports.cards import write_card, write_vocabulary_card
from secateur.reports.display import PlanTable, StageTable
from secateur.reports.figures.costs import draw_family
from secateur.reports.text import format_coverage
from secateur.runs.bookkeeping import stage
from secateur.runs.evidence import check_start, check_teacher
from secateur.runs.student import Student


def cut_vocabulary(model: str, files: Mapping[str, Path], size: int, out: Path, *, fold: bool) -> str:
    """Trim a model's vocabulary for the texts of some languages and save it in `out`; return the coverage report."""
    encoder = load_encoder(TeacherSettings(model=model))
    texts = {language: read_lines(path) for language, path in files.items()}
    trimmed = trim_vocabulary(encoder, texts, size, fold=fold)
    whole = len(encoder.tokenizer)
    card = write_vocabulary_card(model, out.name, list(texts), len(trimmed.kept), whole)
    save_encoder(trimmed.encoder, out, card=card)
    tokenizers = fast_tokenizer(encoder), fast_tokenizer(trimmed.encoder)
    return format_coverage(trimmed.kept, measure_coverage(*tokenizers, texts, trimmed.kept))


@dataclass(frozen=True)
class PlannedPruning:
    """A teacher that is measured and planned for, not cut yet."""

    inputs: PlanningInputs
    held_out: HeldOut
    plan: Plan
    cache: Path
    said: tuple[str, ...] = ()  # lines under the summary

    @property
    def summary(self) -> PlanTable:
        """What the plan keeps of each axis, and what it is predicted to cost and to lose."""
        return PlanTable(self.plan, describe(self.inputs.teacher), said=self.said)

    def cut(self) -> Student:
        """Cut the teacher as planned, repair it, and measure both on held-out pairs.

        A repair that loses to the cut alone is shown and not kept. Raises QualityError: what was cut costs more than
        was allowed.
        """
        recipe = self.inputs.recipe
        runtime = recipe.budget.runtime
        with stage("cut and repair"):
            result = cut_and_repair(self.inputs, self.plan.sizes, progress="repair")
        encoders = {"teacher": self.inputs.teacher, "pruned": result.pruned, "repaired": result.repaired}
        if result.rejected is not None:
            encoders = {"teacher": self.inputs.teacher, NOT_KEPT: result.rejected, "pruned": result.pruned}
        rows = score_stages(encoders, self.held_out, runtime=runtime)
        limits = set_limits(recipe.budget, self.inputs.teacher)
        costs = say_costs(result.repaired, limits, runtime, rows[-1]["ms"], self.inputs.judged)
        summary = replace(self.summary, kept=result.kept)
        return Student(result.repaired, summary, StageTable(rows, costs), recipe)


NOT_KEPT = "repaired, not kept"  # what a table calls a repair that lost to the cut alone


def say_costs(
    student: TorchEncoder, limits: Limits, runtime: str, ms: float, sentences: Sequence[str]
) -> tuple[str, ...]:
    """Return what was asked of a student beside what was measured, in a line, and in another that it is too slow.

    Too slow is what takes more than was allowed by more than two measurements differ. Without limits there is no line.
    """
    found = []
    if limits.params is not None:
        found.append(f"{count_parameters(student):,} parameters of {limits.params:,}")
    if limits.mb is not None:
        found.append(f"{weigh(student, runtime) / 1e6:.2f} MB of {limits.mb:g}")
    if limits.ms is not None:
        found.append(f"{ms:.2f} ms a sentence of {limits.ms:g}")
    if not found:
        return ()
    by = "" if runtime == "torch" else f", by {runtime}"
    lines = [f"measured, of what was allowed: {', '.join(found)}{by}"]
    if limits.ms is not None and ms > limits.ms:
        (again,) = time_cuts([student], sentences, runtime)
        if min(ms, again) - abs(ms - again) > limits.ms:
            lines.append(f"slower than was allowed: {ms:.2f} and {again:.2f} ms a sentence, {limits.ms:g} allowed")
    return tuple(lines)


def plan_pruning(
    recipe: PruningRecipe, *, cache: Path, teacher: TorchEncoder | None = None, given: Sequence[Row] | None = None
) -> PlannedPruning:
    """Measure a teacher and choose what is kept: what the budget names or, under a limit, what loses least.

    `teacher` and `given`, rows of pairs, take the place of what the recipe names. Raises InputError: a model or a
    corpus that cannot be used, a budget that nothing fits.
    """
    inputs, held_out, said = prepare(recipe, cache, teacher=teacher, given=given)
    with stage("plan"):
        plan = make_plan(inputs, progress="trial cuts")
    return PlannedPruning(inputs, held_out, plan, cache, said)


def prepare(
    recipe: PruningRecipe,
    cache: Path,
    *,
    teacher: TorchEncoder | None = None,
    given: Sequence[Row] | None = None,
    shares: Sequence[float] = (),
) -> tuple[PlanningInputs, HeldOut, tuple[str, ...]]:
    """Load and measure what a cut without training needs; what can be checked is checked before it is measured.

    `shares` of the teacher's parameters are limits in the place of the budget's own. Also returns lines to be said.
    """
    device = pick_device(recipe.device)
    set_seed(recipe.seed)
    teacher = teacher or load_encoder(replace(recipe.teacher, max_length=None), device=device)
    teacher, said = adapt(teacher, recipe.teacher)
    name_sizes(recipe.budget, describe(teacher))  # before the pairs are read
    corpus = load_corpus(recipe.corpus, cache, given=given)
    limits = [set_limits(replace(recipe.budget, share=share), teacher) for share in shares] or None
    times = check_start(teacher, corpus, recipe, limits)
    held_out = embed_held_out(teacher, corpus, recipe.validation)
    check_teacher(held_out)
    with stage("saliency"):
        saliency = measure_on_corpus(teacher, corpus.train, recipe, cache=cache)
    judged = judged_sentences(corpus, recipe)
    return PlanningInputs(teacher, saliency, corpus.train.texts, judged, recipe, cache, times), held_out, said


def adapt(teacher: TorchEncoder, settings: TeacherSettings) -> tuple[TorchEncoder, tuple[str, ...]]:
    """Return a teacher that reads no more tokens than its settings say, and whose student is saved in their number
    format; and a line where the student reads fewer than the teacher can."""
    if settings.dtype != "auto":
        teacher = replace(teacher, dtype=settings.dtype)
    own = teacher.max_length
    if settings.max_length is None or settings.max_length >= own:
        return teacher, ()
    shorter = replace_length(teacher, settings.max_length)
    return shorter, (f"the student reads at most {settings.max_length} tokens of a sentence, its teacher {own}",)


def prune_family(
    recipe: PruningRecipe, fractions: Sequence[float], out: Path | None, *, cache: Path, dry_run: bool = False
) -> None:
    """Cut nested students that keep these fractions of a model's parameters, from one measure of saliency.

    Each is saved in a folder of `out`, named after its fraction, beside family.json and family.png: quality against
    cost, the Pareto front marked.
    """
    inputs, held_out, said = prepare(recipe, cache, shares=fractions)
    budgets = [replace(recipe.budget, share=fraction) for fraction in sorted(fractions, reverse=True)]
    limits = [set_limits(budget, inputs.teacher) for budget in budgets]
    with stage("plan"):
        solver = prepare_solver(inputs, limits, progress="trial cuts")
        plans: list[Plan] = []
        for each in limits:
            plans.append(solver.solve(each, within=plans[-1].sizes if plans else None))
    for plan in plans:
        print(PlanTable(plan, solver.shape, said=said), end="\n\n")
    if dry_run or out is None:
        return
    names = [f"{budget.share:g}" for budget in budgets]
    encoders = {"teacher": inputs.teacher}
    with stage("cut and repair"):
        students = cut_nested_family(inputs, [plan.sizes for plan in plans], progress="repair")
        for name, cut_result, limit in zip(names, students, limits, strict=True):
            check_limits(cut_result.repaired, limit, recipe.budget.runtime)
            encoders[name] = cut_result.repaired
    rows = score_stages(encoders, held_out, runtime=recipe.budget.runtime)
    with whole_folder(out) as temporary:
        for row, budget in zip(rows[1:], budgets, strict=True):
            card = write_card(replace(recipe, budget=budget), [rows[0], row], {})
            save_encoder(encoders[row["stage"]], temporary / row["stage"], card=card)
        write_json(temporary / "family.json", rows)
        draw_family(rows).savefig(temporary / "family.png", dpi=150)
    print(StageTable(rows))
