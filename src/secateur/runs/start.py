"""How a run begins: what can be checked is, then its record is opened; nothing that is there is lost.

One process at a time works on a run. A run is its recipe, its teacher and its rows: `--resume` goes on with no other. A
record that is there is renamed, never removed; of models, a run replaces those that it made itself.
"""

import json
import logging
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from secateur.config.errors import InputError
from secateur.config.reading import build_recipe, dump_recipe
from secateur.config.recipe import CreationRecipe, PruningRecipe, Recipe
from secateur.data.counting import say_count
from secateur.data.files import check_replaceable, check_space, check_writable, hash_file, whole_folder, write_json
from secateur.data.locks import hold
from secateur.data.pairs import Pairs, ParallelCorpus
from secateur.distillation.checkpoints import is_whole
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.saving import save_encoder
from secateur.runs.bookkeeping import Places

log = logging.getLogger(__name__)

Part = TypeVar("Part")

RECIPE, IDENTITY, MODELS = "recipe.json", "identity.json", "models.json"  # in a run's record
LONGEST = 200  # bytes of a name: -pruned, .previous-2 and a temporary file's ending come behind it
RESERVED = (".previous", "-pruned", ".partial", ".lock", ".yaml", ".html")
KEPT_BYTES = 3 * 12  # of a checkpoint, a parameter and AdamW's two moments in float32, three times: two and the next


@contextmanager
def open_run(recipe: Recipe, places: Places, *, resume: bool) -> Iterator[None]:
    """Hold a run for this process, once everything is checked that needs no model and no corpus; change nothing.

    Raises InputError: a name that is no run's, a place that cannot be written or holds what this run did not make,
    another process at work on the run, a recipe other than the one to go on with.
    """
    check_name(recipe.name)
    check_writable(places.run)
    with hold(places.run):
        check_record(places.run)
        for folder in list_models(recipe, places):
            check_apart(folder, recipe, places.run)
            check_writable(folder)
            check_made(folder, places.run)
        check_writable(places.cache / "targets")
        if resume:
            check_recipe(recipe, places.run)
            check_writable(places.run / RECIPE)
        yield


def check_name(name: str) -> None:
    """Raise InputError for a name that is not one part of a path, in letters, digits, `.`, `_` and `-`."""
    wrong = [sign for sign in name if unicodedata.category(sign)[0] not in "LMN" and sign not in "._-"]
    if wrong or not name:
        raise InputError(f"name: {name!r:.80} may have letters, digits and . _ - in it, and nothing else")
    if name[0] in ".-":
        raise InputError(f"name: {name!r:.80} may not begin with {name[0]}")
    if len(name.encode()) > LONGEST:
        raise InputError(f"name: {name!r:.80} takes {len(name.encode())} bytes, over {LONGEST}")
    for ending in RESERVED:
        if name.rstrip("-0123456789").endswith(ending) if ending == ".previous" else name.endswith(ending):
            raise InputError(f"name: {name!r} ends in {ending}, as something does that runs write beside their own")


def check_record(run: Path) -> None:
    """Raise InputError if there is something in a record's place that is not a run's record."""
    if run.exists() and not run.is_dir():
        raise InputError(f"{run}: is there already and is not a folder")
    if run.is_dir() and any(run.iterdir()) and not (run / RECIPE).is_file():
        raise InputError(f"{run}: is there already and is not a run's record; give the run another name")


def list_models(recipe: Recipe, places: Places) -> list[Path]:
    """Return the folders that a run saves its models in."""
    names = [f"{recipe.name}-pruned", recipe.name] if isinstance(recipe, PruningRecipe) else [recipe.name]
    return [places.models / name for name in names]


def check_apart(folder: Path, recipe: Recipe, run: Path) -> None:
    """Raise InputError if a model would be saved where the run's record is, or a model that the run reads."""
    if folder.resolve() == run.resolve():
        raise InputError(f"{folder}: the run's record and its student would share a folder; set another --models")
    if folder.exists() and folder.resolve() in [Path(model).resolve() for model in list_teachers(recipe)]:
        raise InputError(f"{folder}: the run would replace the model that it starts from; set another name=")


def list_teachers(recipe: Recipe) -> list[str]:
    """Return the models that a run reads."""
    if isinstance(recipe, PruningRecipe):
        return [recipe.teacher.model]
    assert isinstance(recipe, CreationRecipe), "there are two kinds of recipes"
    body = recipe.student.body
    named = [getattr(each, "model", None) for each in (*recipe.teacher, body)]
    return [model for model in named if model]


def check_made(folder: Path, run: Path) -> None:
    """Raise InputError if there is something in a model's place that no run of this name has made."""
    if not folder.exists() and not folder.is_symlink():
        return
    check_replaceable(folder)
    weights = hash_weights(folder)
    for record in (run, *list_previous(run)):
        known = read_json(record / MODELS)
        before = known is None and ((record / "scores.json").exists() or (record / "repaired").exists())
        if before or weights in (known or {}).get(folder.name, ()):  # a release before this one kept no list
            return
    raise InputError(
        f"{folder} is there already, and no record of a run {run.name} says that it made this model; move the model "
        "away, or set another name="
    )


def hash_weights(folder: Path) -> str:
    """Return a hash of a model folder's weights: what `export` adds to the folder does not change it."""
    return sha256("".join(hash_file(path) for path in sorted(folder.glob("*.safetensors"))).encode()).hexdigest()


def save_model(encoder: TorchEncoder, folder: Path, run: Path, *, card: str = "") -> None:
    """Save a model in a run's name, noting in its record which it is before it takes its place."""
    check_made(folder, run)
    with whole_folder(folder) as temporary:
        save_encoder(encoder, temporary, card=card)
        made = read_json(run / MODELS) or {}
        weights = hash_weights(temporary)
        write_json(run / MODELS, made | {folder.name: sorted({*made.get(folder.name, ()), weights})})


def check_recipe(recipe: Recipe, run: Path) -> None:
    """Raise InputError if the run that is to go on is not this one."""
    path = run / RECIPE
    if not path.exists():
        raise InputError(f"{run}: nothing to resume there; run it without --resume")
    plain = read_json(path)
    if plain is None:
        raise InputError(f"{path}: damaged; the run cannot go on")
    was, now = flatten(dump_recipe(build_recipe(plain, origin=str(path)))), flatten(dump_recipe(recipe))
    if was != now:
        name = min(was.items() ^ now.items())[0]
        change = f"{name} was {was.get(name, 'absent')}, is now {now.get(name, 'absent')}"
        raise InputError(f"{run}: a checkpoint of another run: {change}")


def begin(recipe: Recipe, places: Places, identity: Mapping[str, Any], *, resume: bool) -> None:
    """Write a run's recipe and identity, an earlier record moved away; or check that a resumed run has the same."""
    path = places.run / IDENTITY
    if not resume:
        make_room(places.run)
        with whole_folder(places.run) as record:
            write_json(record / RECIPE, dump_recipe(recipe))
            write_json(record / IDENTITY, identity)
        return
    known = read_json(path)
    if known is None:
        log.warning("%s: no record of the pairs that the run began with; it goes on with those of today", places.run)
        write_json(path, identity)
    was = identity if known is None else known
    for key, words in KEPT_SAME.items():
        if was.get(key) != identity[key]:
            raise InputError(
                f"{places.run}: cannot go on with {words} than it began with{count(was, key)}; bring those back, or "
                "run it without --resume"
            )
    for checkpoint in places.run.rglob("checkpoint-*"):
        if not is_whole(checkpoint):
            shutil.rmtree(checkpoint)  # half-written when the run was killed


KEPT_SAME = {"teacher": "another teacher", "train": "other training pairs", "held_out": "other held-out pairs"}


def count(was: Mapping[str, Any], key: str) -> str:
    rows = was[key].get("rows") if isinstance(was.get(key), Mapping) else None
    return "" if rows is None else f" ({say_count(rows, 'row')} then)"


def identify(corpus: ParallelCorpus, teacher: Any) -> dict[str, Any]:
    """Return what makes two runs of one recipe the same: the rows and the teachers; and which wheels are missing."""
    sides = {"train": corpus.train, "held_out": corpus.held_out}
    rows = {name: {"rows": len(pairs), "sha256": hash_rows(pairs)} for name, pairs in sides.items()}
    return {"teacher": teacher, **rows, "missing_wheels": list(corpus.missing)}


def hash_rows(pairs: Pairs) -> str:
    digest = sha256()
    for row in zip(pairs.en, pairs.ru, pairs.source, pairs.paired, strict=True):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def make_room(run: Path) -> None:
    """Rename a record to NAME.previous, or where that is taken to NAME.previous-2, and so on."""
    if not run.is_dir() or not any(run.iterdir()):
        return
    number = len(list_previous(run)) + 1
    while (previous := name_previous(run, number)).exists():
        number += 1
    run.rename(previous)
    log.info("the last run's record is now %s", previous)


def name_previous(run: Path, number: int) -> Path:
    return run.with_name(f"{run.name}.previous" + (f"-{number}" if number > 1 else ""))


def list_previous(run: Path) -> list[Path]:
    """Return the earlier records of a run's name."""
    found = (each.name.removeprefix(f"{run.name}.previous") for each in run.parent.glob(f"{run.name}.previous*"))
    return [run.with_name(f"{run.name}.previous{end}") for end in sorted(found) if not end or end[1:].isdigit()]


def check_disk(parameters: float, recipe: Recipe, places: Places) -> None:
    """Raise InputError where a student of so many parameters, trained, would not fit on the disk."""
    check_space(places.models, 2 * 4 * parameters, "saving the student")
    if recipe.distillation.steps:
        check_space(places.run, KEPT_BYTES * parameters, "the checkpoints of distillation")


def bound_parameters(recipe: PruningRecipe | CreationRecipe, teacher: int) -> float:
    """Return how many parameters a budget names, of a teacher of so many; 0: it names none."""
    if not isinstance(recipe, PruningRecipe):
        return 0
    budget = recipe.budget
    named = (budget.params, budget.share and budget.share * teacher, budget.mb and budget.mb * 1e6 / 4)
    return min((limit for limit in named if limit), default=0)


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return every value as JSON text under its dotted key."""
    flat: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)
    return flat


def load_part(path: Path, read: Callable[[Path], Part]) -> Part:
    """Return what a stopped run left in a file. Raises InputError: the file is missing or damaged."""
    try:
        return read(path)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}); the run cannot go on: start it anew") from None


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a mapping from a file of the record; None: there is none that can be read."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return plain if isinstance(plain, dict) else None
