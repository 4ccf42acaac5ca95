"""Where a run's numbers go: metrics.jsonl always, ClearML (its server, or an offline session) besides.

Tracking never stops a run: what ClearML refuses is said once, and metrics.jsonl goes on.
Under torchrun the first process alone writes.
"""

import json
import logging
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TextIO
from zipfile import is_zipfile

from secateur.config.reading import dump_recipe
from secateur.config.recipe import Recipe
from secateur.data.download import answer_within
from secateur.data.files import write_text
from secateur.distillation.checkpoints import find_checkpoint
from secateur.export.origin import hide_folders, hide_paths
from secateur.reports.record import read_metrics

if TYPE_CHECKING:
    from clearml import Task
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

LOGGER = logging.getLogger(__name__)

SERVER_TIMEOUT = 10  # seconds

# ClearML hooks into each of these unless told not to. Detecting the repository and the packages takes minutes
# without network, and the hooks would report every picture drawn and every checkpoint saved a second time.
HOOKS = (
    "detect_repository", "artifacts", "matplotlib", "tensorflow", "tensorboard", "tfdefines", "pytorch", "megengine",
    "xgboost", "catboost", "lightgbm", "fastai", "scikit", "joblib", "hydra", "jsonargparse", "gradio",
)  # fmt: skip


@dataclass
class RunLog:
    """The log of one run, as `open_log` yields it; without a file (another process writes) it is silent."""

    file: TextIO | None = None
    task: "Task | None" = None
    started: float = 0.0  # on the monotonic clock
    step: int = 0  # the last one reported
    refused: bool = False  # ClearML has raised, and that was said

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Append one line to metrics.jsonl: step, seconds since the start, and the values.

        In ClearML `train/output` is the series `output` of the plot `train`. A value that is not finite is null.
        """
        if self.file is None:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        seconds = round(time.monotonic() - self.started, 3)
        self.file.write(json.dumps({"step": step, "seconds": seconds} | finite) + "\n")
        self.file.flush()
        self.step = step
        self.report(partial(report_scalars, values=finite, step=step))

    def table(self, title: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Report a table; the first row's keys are its columns."""
        columns = list(rows[0]) if rows else []
        cells: list[list[object]] = [list(columns), *([row.get(column, "") for column in columns] for row in rows)]
        self.report(lambda task: task.get_logger().report_table(title, title, self.step, table_plot=cells))

    def heatmap(self, title: str, matrix: "NDArray[Any]", *, rows: str, columns: str) -> None:
        """Report a matrix as a heat map, its first row on top; `rows` and `columns` name the axes."""
        self.report(
            lambda task: task.get_logger().report_confusion_matrix(
                title, title, matrix, self.step, xaxis=columns, yaxis=rows, yaxis_reversed=True
            )
        )

    def figure(self, title: str, figure: "Figure") -> None:
        """Report a matplotlib figure as a picture."""
        self.report(
            lambda task: task.get_logger().report_matplotlib_figure(
                title, title, figure, self.step, report_interactive=False
            )
        )

    def model(self, folder: Path) -> None:
        """Upload the folder of a model; an offline session takes a copy of it."""
        self.report(partial(upload_model, folder=folder))

    def report(self, call: Callable[["Task"], object]) -> None:
        """Hand ClearML's task to `call`; an exception is said the first time and goes no further."""
        if self.task is None:
            return
        try:
            call(self.task)
        except Exception as error:
            if not self.refused:
                LOGGER.warning("ClearML: %s: %s; the run goes on with metrics.jsonl", type(error).__name__, error)
            self.refused = True


@contextmanager
def open_log(recipe: Recipe, folder: Path, *, resume_steps: Mapping[str, float] | None = None) -> Iterator[RunLog]:
    """Yield the log of a run whose record is `folder`; close it when the block ends.

    A resumed run goes on in the metrics.jsonl it finds, cut behind `resume_steps`, as `find_steps` gives them; any
    other starts a new one. In ClearML a resumed run is a new task that begins with the lines that were kept.
    """
    if not is_first_process():
        yield RunLog()
        return
    path = folder / "metrics.jsonl"
    kept = [] if resume_steps is None else [line for line in read_metrics(path) if is_kept(line, resume_steps)]
    step = max(0, int((resume_steps or {}).get("", 0)))
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
    with path.open("a", encoding="utf-8") as file:
        log = RunLog(file, started=time.monotonic() - (kept[-1]["seconds"] if kept else 0.0), step=step)
        if recipe.tracking.to == "clearml":
            log.task = start_task(recipe, folder / "clearml")
            for line in kept:
                values = {name: value for name, value in line.items() if name not in ("step", "seconds")}
                log.report(partial(report_scalars, values=values, step=line["step"]))
        failure = ""
        try:
            yield log
        except BaseException as error:
            failure = hide_folders(f"{type(error).__name__}: {error}")
            raise
        finally:
            log.report(partial(close_task, failure=failure))


def find_steps(run: Path) -> dict[str, float]:
    """Return up to which step the metrics of a stopped run still stand: those of its checkpoints, by what stands
    before their names (`round-1/` of a round of gradual pruning); -1: none does."""
    steps: dict[str, float] = {"": last_step(run)}
    for folder in run.glob("round-*"):
        steps[f"{folder.name}/"] = math.inf if (folder / "kept.json").exists() else last_step(folder)
    return steps


def last_step(folder: Path) -> int:
    checkpoint = find_checkpoint(folder / "checkpoints")
    return int(checkpoint.rpartition("-")[2]) if checkpoint else -1


def is_kept(line: Mapping[str, Any], steps: Mapping[str, float]) -> bool:
    """Return whether a line of metrics stands where a run goes on: it will not come a second time."""
    names = [name for name in line if name not in ("step", "seconds")]
    if any(name.startswith("held-out/") or ", " in name.partition("/")[0] for name in names):
        return False  # of the saved student, scored when everything else is done
    found = re.match(r"round-\d+/", names[0]) if names else None
    return bool(line["step"] <= steps.get(found[0] if found else "", -1))


def is_first_process() -> bool:
    """Whether this process has rank 0, or is alone; torchrun and accelerate set RANK."""
    return int(os.environ.get("RANK", "0")) == 0


def report_scalars(task: "Task", values: Mapping[str, float | None], step: int) -> None:
    for name, value in values.items():
        plot, _, series = name.partition("/")
        if value is not None:
            task.get_logger().report_scalar(plot, series or plot, value, step)


def start_task(recipe: Recipe, folder: Path) -> "Task | None":
    """Return a task on the server if there is one to be had, else in an offline session under `folder`."""
    try:
        from clearml import Task

        reason = "offline mode is set" if Task.is_offline() else find_obstacle()
        if not reason:
            try:
                task = init_task(recipe)
                LOGGER.info("ClearML: %s", task.get_output_log_web_page())
                return task
            except Exception as error:
                reason = f"the server refused ({type(error).__name__})"
        go_offline(folder)
        task = init_task(recipe)
        LOGGER.info(
            "ClearML: %s; offline session in %s.zip, to be uploaded by Task.import_offline_session",
            reason,
            task.get_offline_mode_folder(),
        )
        return task
    except Exception as error:
        LOGGER.warning("ClearML: %s: %s; the run goes on with metrics.jsonl", type(error).__name__, error)
        return None


def find_obstacle() -> str:
    """Return why ClearML's server cannot be used, in words; nothing if there are credentials and it answers."""
    from clearml.backend_api import Session
    from clearml.backend_api.session.defs import ENV_ACCESS_KEY, ENV_AUTH_TOKEN
    from clearml.config import config_obj

    if not (ENV_AUTH_TOKEN.get() or ENV_ACCESS_KEY.get() or config_obj.get("api.credentials.access_key", None)):
        return "no credentials found"
    host = Session.get_api_server_host()
    if not answers(f"{host}/debug.ping", verify=config_obj.get("api.verify_certificate", True)):
        return f"{host} does not answer"
    return ""


def answers(url: str, *, verify: bool) -> bool:
    """Whether a GET succeeds within SERVER_TIMEOUT."""
    import requests

    try:
        return answer_within(SERVER_TIMEOUT, lambda: requests.get(url, timeout=SERVER_TIMEOUT, verify=verify)).ok
    except (OSError, ValueError):  # requests' own errors are OSErrors; of an address that is none some are ValueErrors
        return False


def go_offline(folder: Path) -> None:
    from clearml import Task
    from clearml.config import config_obj

    Task.set_offline(True)
    os.environ["CLEARML_CACHE_DIR"] = str(folder.absolute())
    # The forked reporter adds 10 s to every close; a thread writes the same files at once.
    config_obj.set_overrides({"sdk": {"development": {"report_use_subprocess": False}}})


def init_task(recipe: Recipe) -> "Task":
    """Begin a task that records what it is told, and the log's words; the terminal stays as it is."""
    from clearml import Task

    logging.getLogger("clearml").setLevel(logging.ERROR)
    with redirect_stdout(StringIO()), same_signals():
        task: Task = Task.init(
            project_name=recipe.tracking.project,
            task_name=recipe.name,
            reuse_last_task_id=False,
            output_uri=True,
            auto_connect_arg_parser=False,
            auto_connect_frameworks=dict.fromkeys(HOOKS, False),
            auto_connect_streams={"stdout": False, "stderr": False, "logging": True},
            auto_resource_monitoring={"report_start_sec": 10},
        )
        task.connect_configuration(hide_paths(dump_recipe(recipe)), name="experiment")
    # The machine's monitor prints that there is no GPU, in the middle of a progress bar.
    logger = task.get_logger()
    logger.report_text = partial(logger.report_text, print_console=False)  # type: ignore[method-assign]
    return task


@contextmanager
def same_signals() -> Iterator[None]:
    """Give every signal the handler back that it had: ClearML's would ignore SIGTERM and turn a crash into a hang."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield
    for number, handler in handlers.items():
        if handler is not None and handler is not signal.getsignal(number):
            signal.signal(number, handler)


def upload_model(task: "Task", folder: Path) -> None:
    """Upload a folder as a tar file: weights do not compress, and ClearML's own zip would cost seconds trying."""
    with TemporaryDirectory() as temporary:
        archive = shutil.make_archive(str(Path(temporary, folder.name)), "tar", folder)
        task.upload_artifact("model", archive, wait_on_upload=True)


def close_task(task: "Task", failure: str) -> None:
    """Close a task, on the server as failed if `failure` says why; of an offline session the zip file stays."""
    with redirect_stdout(StringIO()):
        task.flush(wait_for_uploads=True)  # after Ctrl-C or sys.exit, close alone drops what still waits
        task.close()
        if failure and not task.is_offline():
            task.get_task(task_id=task.id).mark_failed(status_reason=failure, force=True)
    session = task.get_offline_mode_folder()
    if session and is_zipfile(f"{session}.zip") and not failure:
        shutil.rmtree(session)
