"""Gradual pruning: cuts in rounds with distillation between them."""

from dataclasses import asdict, replace

from accelerate import PartialState
from pydantic import TypeAdapter

from secateur.config.teacher import TeacherSettings
from secateur.data.files import write_json
from secateur.distillation.distillation import find_checkpoint
from secateur.encoders.loading import load_encoder
from secateur.encoders.saving import save_encoder
from secateur.pruning.cutting import CutResult, cut_on, cut_to, cut_words, interpolate_cubically
from secateur.pruning.inputs import PlanningInputs
from secateur.pruning.predictions import Plan
from secateur.pruning.repair import repair
from secateur.pruning.selection import Kept
from secateur.pruning.sizes import describe
from secateur.runs.bookkeeping import Places, stage
from secateur.runs.training import Training


def cut_gradually(inputs: PlanningInputs, plan: Plan, training: Training, places: Places, *, resume: bool) -> CutResult:
    """Cut in rounds with distillation between them; each round cuts the student that the one before trained.

    Every finished round leaves round-N/ with its student, from which a stopped run goes on.
    """
    budget, sizes = inputs.budget, plan.sizes
    settings = replace(training.recipe.distillation, steps=budget.gradual_steps, schedule="constant")
    base = cut_words(inputs, sizes)
    whole = describe(base)
    student, pruned, kept = base, base, None
    for number in range(1, budget.rounds + 1):
        folder = places.run / f"round-{number}"
        last = number == budget.rounds
        if resume and not last and (folder / "kept.json").exists():
            student = load_encoder(TeacherSettings(model=str(folder / "student"), max_length=base.max_length))
            kept = TypeAdapter(Kept).validate_json((folder / "kept.json").read_bytes())
            continue
        part = sizes if last else interpolate_cubically(whole, sizes, number / budget.rounds)
        with stage(f"round {number}"):
            chosen, kept = cut_on(student, kept, part, inputs, trained=True)
            pruned = cut_to(student, chosen, part, inputs)
            student = repair(pruned, student, chosen, inputs.calibration, training.recipe.repair, progress="repair")
            if last:
                break
            found = find_checkpoint(folder / "checkpoints") is not None
            student = training.run(
                student, folder, settings=settings, prefix=f"round-{number}/", resume=resume and found
            ).encoder
        if PartialState().is_main_process:
            save_encoder(student, folder / "student")
            write_json(folder / "kept.json", asdict(kept), indent=None)
    assert kept is not None, "there are at least two rounds"
    if PartialState().is_main_process:
        write_json(places.run / "kept.json", asdict(kept), indent=None)
        save_encoder(student, places.models / f"{training.recipe.name}-pruned")
    return CutResult(kept, base, pruned, student)
