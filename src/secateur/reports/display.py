"""Tables that print as text in a terminal and as HTML in a notebook."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from secateur.evaluation.leaderboard import SENTENCE_TASKS, Scores, mean_s
from secateur.export.findings import Finding
from secateur.pruning.predictions import Plan
from secateur.pruning.selection import Kept, say_kept
from secateur.pruning.sizes import EncoderShape
from secateur.reports.text import (
    ARTEFACT_COLUMNS,
    column_cells,
    format_table,
    note_artefacts,
    note_losses,
    note_stages,
    plan_cells,
    say_interval,
    say_plan,
    sentence_cells,
    stage_cells,
)


class Shown:
    """What has cells, a header first, and a note: text where it is printed, a table where a notebook shows it."""

    def cells(self) -> list[list[str]]:
        """Return the rows of the table as text, the header first."""
        raise NotImplementedError

    def note(self) -> str:
        """Return the line under the table."""
        return ""

    def __str__(self) -> str:
        return "\n".join(part for part in (format_table(self.cells()), self.note()) if part)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        header, *rows = self.cells()
        head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        note = f"<p>{escape(self.note())}</p>" if self.note() else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


@dataclass(frozen=True, repr=False)
class PlanTable(Shown):
    """What a plan keeps of each axis and why: sizes, predicted losses and, once it is cut, every layer's counts."""

    plan: Plan  # sizes and predictions
    shape: EncoderShape  # of the teacher
    kept: Kept | None = None  # the indices that survived, once the teacher is cut
    said: tuple[str, ...] = ()  # lines under the table

    def cells(self) -> list[list[str]]:
        return plan_cells(self.plan, self.shape)

    def note(self) -> str:
        lines = [say_plan(self.plan, self.shape), *note_losses(self.plan)]
        if self.kept is not None:
            lines += say_kept(self.kept, whole=self.shape.whole.layers)
        return "\n".join([*lines, *self.said])


@dataclass(frozen=True, repr=False)
class StageTable(Shown):
    """A row for the teacher and each stage: parameters, MB, ms a sentence, held-out cosine, retrieval accuracy@1."""

    rows: Sequence[Mapping[str, Any]]
    said: tuple[str, ...] = ()  # lines under the table

    def cells(self) -> list[list[str]]:
        return stage_cells(self.rows)

    def note(self) -> str:
        return "\n".join([note_stages(self.rows), *self.said])


@dataclass(frozen=True, repr=False)
class ArtefactTable(Shown):
    """A row for each exported file: MB, differences to torch, retrieval accuracy@1, Mean S."""

    rows: Sequence[Mapping[str, Any]]

    def cells(self) -> list[list[str]]:
        return column_cells(self.rows, ARTEFACT_COLUMNS)

    def note(self) -> str:
        return note_artefacts(self.rows)


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """What a model scores on a benchmark, with the 95% interval of the mean where it is known."""

    name: str  # of the model
    scores: Scores

    @property
    def own(self) -> Mapping[str, float]:
        """Each task's score of the model's own sentence vector."""
        return self.scores.own

    @property
    def mean(self) -> float | None:
        """The mean over the sentence tasks, Mean S on encodechka; None where a task is missing."""
        return mean_s(self.scores.own)

    def cells(self) -> list[list[str]]:
        header = [f"{self.scores.benchmark}, own vector", *SENTENCE_TASKS, "mean"]
        row = [self.name, *sentence_cells(self.own)]
        if self.scores.interval is None:
            return [header, row]
        return [[*header, "95% interval"], [*row, say_interval(self.scores.interval)]]


@dataclass(frozen=True, repr=False)
class FindingTable(Shown):
    """A row for each finding of a check: pass, warn or fail, what was looked at, what was found, what to do."""

    findings: Sequence[Finding]

    def cells(self) -> list[list[str]]:
        rows = [[each.status, each.check, each.found, each.todo] for each in self.findings]
        return [["", "check", "found", "what to do"], *rows]

    def note(self) -> str:
        counts = Counter(each.status for each in self.findings)
        return f"{counts['pass']} passed, {counts['warn']} to look at, {counts['fail']} failed"

    def lines(self) -> list[str]:
        """Return a line a finding, and below it what to do: sentences are too long for columns beside each other."""
        width = max((len(each.check) for each in self.findings), default=0)
        lines = []
        for each in self.findings:
            lines.append(f"{each.status}  {each.check.ljust(width)}  {each.found}")
            lines += [f"{' ' * (width + 8)}-> {each.todo}"] if each.todo else []
        return lines

    def __str__(self) -> str:
        return "\n".join([*self.lines(), self.note()])

    __repr__ = __str__
