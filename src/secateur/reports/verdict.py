"""The sentence that a page opens with: is the student worth it? From the numbers of its run's record alone."""

import math
from collections.abc import Mapping
from typing import Any

from secateur.data.counting import say_count
from secateur.evaluation.intervals import FEW
from secateur.evaluation.leaderboard import Scores, mean_s
from secateur.reports.record import Record


def say_verdict(record: Record) -> str:
    """Return what the student costs and what it keeps of its teacher, or how far its run has come."""
    if not record.stages:
        unread = "What the student is worth cannot be read from the record."
        return unread if record.has_ended else say_progress(record)
    first, last = record.stages[0], record.stages[-1]
    parts = say_costs(last, first if len(record.stages) > 1 else {})
    teacher, student = ((record.scores or {}).get(name) for name in ("teacher", last["stage"]))
    kept = say_kept(teacher, student) if teacher and student and teacher is not student else []
    parts += kept or say_held_out(last, first)
    return f"The student {join(parts)}." if parts else "What the student is worth cannot be read from the record."


def say_costs(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[str]:
    """Return the student's parameters and time; beside the teacher's where those are known."""
    if "parameters" not in student:
        parts = []
    elif teacher.get("parameters"):
        parts = [f"has {share(student['parameters'], teacher['parameters'])} of the teacher's parameters"]
    else:
        parts = [f"has {student['parameters']:,} parameters"]
    if teacher.get("ms") and "ms" in student:
        return [*parts, f"takes about {share(student['ms'], teacher['ms'])} of its time for a sentence"]
    return [*parts, f"takes about {student['ms']:.2f} ms for a sentence"] if "ms" in student else parts


def say_kept(teacher: Scores, student: Scores) -> list[str]:
    """Return what is kept of the teacher's mean score on a benchmark, and of its weakest task; nothing: not known."""
    whole, mean = mean_s(teacher.own), mean_s(student.own)
    if not whole or mean is None or teacher.benchmark != student.benchmark:
        return []
    known = {
        task: score / teacher.own[task]
        for task, score in student.own.items()
        if teacher.own.get(task, 0) > 0 and not math.isnan(score)
    }
    if not known:
        return []
    weakest = min(known, key=lambda task: known[task])
    name = "the probe" if student.benchmark == "probe" else student.benchmark
    kept = f"keeps {mean / whole:.1%} of its mean score on {name} ({mean:.3f} of {whole:.3f})"
    return [f"{kept}; the weakest task, {weakest}, keeps {known[weakest]:.1%}"]


def say_held_out(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[str]:
    """Return how near the student is to the teacher on held-out pairs; no benchmark compares the two."""
    if not {"cosine", "en_ru", "ru_en"} <= student.keys():
        return []
    of_teacher = {way: f" (teacher {teacher[way]:.3f})" if way in teacher else "" for way in ("en_ru", "ru_en")}
    en_ru, ru_en = (f"{student[way]:.3f}{said}" for way, said in of_teacher.items())
    few = student.get("pairs", FEW) < FEW
    alone = f", judged on {say_count(student['pairs'], 'pair')} alone" if few else ""
    return [
        f"has vectors of held-out sentences with a mean cosine of {student['cosine']:.3f} to the teacher's; its "
        f"retrieval accuracy@1 is {en_ru} from English to Russian and {ru_en} from Russian to English{alone}"
    ]


def say_progress(record: Record) -> str:
    """Return the last held-out scores of a run that has not ended."""
    scores = [line for line in record.metrics if line.get("validation/cosine") is not None]
    if not scores:
        return "Nothing has been measured yet of what the student is worth."
    last = scores[-1]
    values = {name: last.get(f"validation/{name}") for name in ("cosine", "en_ru", "ru_en")}
    cosine, en_ru, ru_en = ("not known" if value is None else f"{value:.3f}" for value in values.values())
    return (
        f"So far, at step {last['step']:,} of {record.steps:,}, the student's vectors of held-out sentences have a "
        f"mean cosine of {cosine} to the teacher's; its retrieval accuracy@1 is {en_ru} from English to Russian and "
        f"{ru_en} from Russian to English."
    )


def share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}"


def join(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
