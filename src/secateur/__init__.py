"""secateur prunes, repairs and distils multilingual sentence encoders.

    import secateur
    student = secateur.prune("models/teacher-mini-en-ru", "pairs.tsv", max_params="4.6M")
    student = secateur.distill(student, "models/teacher-mini-en-ru", "pairs.tsv", minutes=10)
    secateur.evaluate(student, "probe")
    student.save("models/mine")
    secateur.export("models/mine")
    secateur.Encoder("models/mine", backend="onnx-int8").encode(["..."])

The rooms, in reading order; each imports only rooms that stand before it:

config        what a recipe may say
data          sentence pairs in, whole files out
encoders      an encoder as an object: load it, run it, rebuild it, count what it costs
pruning       measure what matters, choose what is kept, cut the rest away, repair what is left
distillation  teachers' vectors, and the training that pulls a student towards them
evaluation    what a student is worth
export        ONNX files behind a quality gate, model cards, the hub
reports       a run's record as tables, pictures, a page and a demo
runs          from a recipe to a student: the stages in order; the front door above
commands      the commands, a module each
bench         every claim of speed beside its peer
"""

import importlib.abc
import importlib.util
import inspect
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from secateur.config.errors import InputError, QualityError, name_missing

if TYPE_CHECKING:
    from secateur.encoders.inference import Encoder as Encoder
    from secateur.runs.front_door import distill as distill
    from secateur.runs.front_door import evaluate as evaluate
    from secateur.runs.front_door import export as export
    from secateur.runs.front_door import load as load
    from secateur.runs.front_door import prune as prune
    from secateur.runs.student import Student as Student

__version__ = "0.1.0"

__all__ = [
    "Encoder", "InputError", "QualityError", "Student", "__version__", "distill", "evaluate", "export", "load", "prune",
]  # fmt: skip

ROOMS = {  # where each name is; nothing heavy is imported before it is asked for
    "Encoder": "encoders.inference",
    "Student": "runs.student",
    "distill": "runs.front_door",
    "evaluate": "runs.front_door",
    "export": "runs.front_door",
    "load": "runs.front_door",
    "prune": "runs.front_door",
}

AUTO = "transformers.models.auto.modeling_auto"


class RegisterPrunedTypes(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Register the pruned model types the moment AutoModel is imported.

    `import secateur` is thus enough for stock `AutoModel` and `SentenceTransformer` to load a pruned
    folder, and costs nothing (torch and transformers take seconds) where no model is loaded.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        self.loader = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        importlib.import_module("secateur.encoders.modeling")


def __getattr__(name: str) -> object:
    """A name of the front door, imported when it is asked for."""
    if name not in ROOMS:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"secateur.{ROOMS[name]}"), name)
    except ModuleNotFoundError as error:
        raise InputError(name_missing(error, by=f"secateur.{name}")) from error


def __dir__() -> list[str]:
    return sorted(__all__)


class CallableRoom(ModuleType):
    """The room `export`, which is called where the front door's function of that name is meant."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return cast(Any, __getattr__("export"))(*arguments, **named)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(cast(Any, __getattr__("export")))


class Package(ModuleType):
    """This package: `secateur.export` is both a room and a function of the front door.

    The import system binds a room to its package's attribute as soon as one of its modules is imported; without this
    the function would be there until then and no longer.
    """

    @property
    def export(self) -> ModuleType:
        room = importlib.import_module("secateur.export")
        room.__class__ = CallableRoom
        return room

    @export.setter
    def export(self, room: ModuleType) -> None:
        """The import system binds the room here; the property finds it by itself."""


sys.modules[__name__].__class__ = Package

if AUTO in sys.modules:
    importlib.import_module("secateur.encoders.modeling")
else:
    sys.meta_path.insert(0, RegisterPrunedTypes())
