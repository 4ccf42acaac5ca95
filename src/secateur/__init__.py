"""secateur prunes, repairs and distils multilingual sentence encoders. In reading order:

config, corpus      a recipe; parallel sentences, cleaned and split by hash
modeling, encoder   encoders with their own head and neuron counts in each layer; sentences to unit vectors
vocabulary, students        word pieces for a corpus; new encoders out of old layers, or of a shape
losses, teachers, targets   what a student is measured by; whatever gives vectors; that of every sentence, once
saliency, selection first-order Taylor scores per head and neuron; a budget turned into the indices that survive
slicing, repair     cut the weights; refit what is left in closed form
distillation        pull the student towards its teacher on parallel sentences
validation, encodechka, cost        what the student is worth, and what it costs
inference, onnx_graph, gate, export many sentences at a time; ONNX files, measured before they are kept
record, figures, page, demo         a run's record as a page; a page to try a student on
scores, infer, train, cli           what encoders are worth; the stages in order; the commands
"""

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secateur.encoders.inference import Encoder as Encoder

__version__ = "0.1.0"

__all__ = ["Encoder", "__version__"]

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
    """`secateur.Encoder`, imported when it is asked for."""
    if name != "Encoder":
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    return importlib.import_module("secateur.encoders.inference").Encoder


if AUTO in sys.modules:
    importlib.import_module("secateur.encoders.modeling")
else:
    sys.meta_path.insert(0, RegisterPrunedTypes())
