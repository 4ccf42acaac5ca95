"""Gradual pruning: cuts in rounds with distillation between them."""

from dataclasses import asdict, replace
from functools import partial

from accelerate import PartialState
from pydantic import TypeAdapter

from secateur.data.files import write_json
from secateur.distillation.checkpoints import find_checkpoint
from secateur.pruning.cutting import CutResult, cut_on, cut_to, cut_words, finish, interpolate_cubically, keep_better
from secateur.pruning.inputs import PlanningInputs
from secateur.pruning.limits import set_limits
from secateur.pruning.predictions import Plan
from secateur.pruning.repair import repair
from secateur.pruning.selection import Kept
from secateur.pruning.sizes import describe
from secateur.runs.bookkeeping import Places, stage
from secateur.runs.start import load_part, save_model
from secateur.runs.training import Training, load_weights, save_weights


def cut_gradually(inputs: PlanningInputs, plan: Plan, training: Training, places: Places, *, resume: bool) -> CutResult:
    """Cut in rounds with distillation between them; each round cuts the student that the one before trained.

    Every finished round leaves round-N/ with its student's weights, from which a stopped run goes on.
    """
    budget, sizes = inputs.budget, plan.sizes
    settings = replace(training.recipe.distillation, steps=budget.gradual_steps, schedule="constant")
    base = cut_words(inputs, sizes)
    whole = describe(base)
    student, pruned, repaired, kept = base, base, base, None
    for number in range(1, budget.rounds + 1):
        folder = places.run / f"round-{number}"
        last = number == budget.rounds
        part = sizes if last else interpolate_cubically(whole, sizes, number / budget.rounds)
        if resume and not last and (folder / "kept.json").exists():
            kept = load_part(folder / "kept.json", lambda file: TypeAdapter(Kept).validate_json(file.read_bytes()))
            student = load_part(folder / "student.safetensors", partial(load_weights, cut_to(base, kept, part, inputs)))
            continue
        with stage(f"round {number}"):
            chosen, kept = cut_on(student, kept, part, inputs, trained=True)
            pruned = cut_to(student, chosen, part, inputs)
            repaired = repair(pruned, student, chosen, inputs.calibration, training.recipe.repair, progress="repair")
            if last:
                break
            student = keep_better(inputs, pruned, repaired)
            found = find_checkpoint(folder / "checkpoints") is not None
            student = training.run(
                student, folder, settings=settings, prefix=f"round-{number}/", resume=resume and found
            ).encoder
        if PartialState().is_main_process:
            save_weights(student, folder / "student.safetensors")
            write_json(folder / "kept.json", asdict(kept), indent=None)
    assert kept is not None, "there are at least two rounds"
    cut_result = finish(CutResult(kept, base, pruned, repaired), inputs, set_limits(budget, inputs.teacher))
    if PartialState().is_main_process:
        write_json(places.run / "kept.json", asdict(kept), indent=None)
        save_model(cut_result.repaired, places.models / f"{training.recipe.name}-pruned", places.run)
    return cut_result
