"""Tables say what their numbers are, and show what is known."""

from secateur.evaluation.leaderboard import SENTENCE_TASKS, Scores
from secateur.pruning.predictions import Plan
from secateur.pruning.selection import Kept
from secateur.pruning.sizes import EncoderShape, Sizes
from secateur.reports.display import Evaluation, PlanTable
from secateur.reports.text import LOSS_NOTE, column_cells

SIZES = Sizes(2, 8, 16, 32, 100, None)
SHAPE = EncoderShape(SIZES, head_size=8, positions=80, types=2, output=32, has_pooler=False)
AXES = ("layers", "heads", "neurons", "hidden", "pieces", "rank")


def test_an_evaluation_shows_the_interval_of_its_mean_where_it_is_known() -> None:
    tasks = {task: {"own": 0.5} for task in SENTENCE_TASKS}
    known = Evaluation("mine", Scores(tasks, benchmark="probe", interval=(0.48, 0.53)))
    assert [row[-1] for row in known.cells()] == ["95% interval", "0.4800-0.5300"]
    assert "<td>0.4800-0.5300</td>" in known._repr_html_()
    assert "interval" not in str(Evaluation("mine", Scores(tasks)))


def test_a_plan_says_what_predicted_losses_are_where_there_are_some() -> None:
    predicted, named = (Plan(SIZES, 1000, 0.004, None, dict.fromkeys(AXES, loss)) for loss in (0.01, 0.0))
    assert str(PlanTable(predicted, SHAPE)).endswith(f"predicted cosine 0.9400 before training\n{LOSS_NOTE}")
    assert LOSS_NOTE in PlanTable(predicted, SHAPE, Kept(((0,), (1,)), ((0,), (1,)))).note()
    assert "predicted" not in str(PlanTable(named, SHAPE))
    assert "predicted" not in str(PlanTable(named, SHAPE))


def test_a_column_that_no_row_has_is_left_out() -> None:
    columns = {"name": ("name", "{}"), "score": ("score", "{:.2f}"), "none": ("none", "{:.2f}")}
    assert column_cells([{"name": "a", "score": 1.0}, {"name": "b"}], columns) == [
        ["name", "score"], ["a", "1.00"], ["b", "-"],
    ]  # fmt: skip
