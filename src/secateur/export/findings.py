"""What a check of a model folder looks at, and what it says."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.data.files import hash_file
from secateur.encoders.inference import PARITY, find_backends
from secateur.encoders.loading import check_transformer, quiet_transformers
from secateur.encoders.modeling import NAMES, PRUNED
from secateur.encoders.soundness import PLAIN, RARE, list_weight_files, read_header

Status = Literal["pass", "warn", "fail"]
TEXTS = 200  # of each language of the user's own text that are read


@dataclass(frozen=True)
class Finding:
    """One line of a check: what was looked at, whether it is well, what was found, and what to do about it."""

    check: str
    status: Status
    found: str
    todo: str = ""


@dataclass(frozen=True)
class Subject:
    """A model folder under check, read as stock libraries read it, and texts by language to read with it."""

    folder: Path
    texts: Mapping[str, list[str]]

    @property
    def sentences(self) -> list[str]:
        """Texts of many lengths and scripts, the user's own first."""
        own = [text for texts in self.texts.values() for text in texts[: TEXTS // 4]]
        return [*own, *PLAIN, *RARE, " ".join(PLAIN)]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The transformer's config.json."""
        return self.read_json("config.json")

    @cached_property
    def header(self) -> dict[str, tuple[str, int]]:
        """The transformer's weights in safetensors: each one's number format, and how many numbers it holds."""
        return read_header(list_weight_files(self.folder))

    @cached_property
    def model(self) -> SentenceTransformer:
        """The model as sentence-transformers loads it."""
        with quiet_transformers():
            model = SentenceTransformer(str(self.folder), device="cpu")
        return model.eval()

    @property
    def is_prunable(self) -> bool:
        """Whether it is of a type that secateur knows."""
        return str(self.config.get("model_type", "")).removeprefix(PRUNED) in NAMES

    @property
    def first(self) -> Transformer:
        """Its first module. Raises InputError: it is no transformer."""
        return cast(Transformer, check_transformer(self.model, origin="the model"))

    @property
    def transformer(self) -> PreTrainedModel:
        return self.first.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return cast(PreTrainedTokenizerBase, self.model.tokenizer)

    @cached_property
    def parity(self) -> dict[str, Any] | None:
        """What an export recorded; None: nothing was exported, or the record cannot be read."""
        try:
            record = self.read_json(PARITY)
            hashes = [*record["artefacts"]["torch"]["files"].values()]
            hashes += [each["sha256"] for name, each in record["artefacts"].items() if name != "torch"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return record if all(isinstance(digest, str) for digest in hashes) else None

    @cached_property
    def changed(self) -> dict[str, str]:
        """What is wrong with a file that an export recorded, by the file's name."""
        artefacts = {} if self.parity is None else self.parity["artefacts"]
        recorded = dict(artefacts["torch"]["files"]) if artefacts else {}
        recorded |= {name: each["sha256"] for name, each in artefacts.items() if name != "torch"}
        flaws = {}
        for name, digest in recorded.items():
            path = self.folder / name
            if not path.is_file():
                flaws[name] = "is not there"
            elif hash_file(path) != digest:
                flaws[name] = "is not the file that was measured"
        return flaws

    @cached_property
    def backends(self) -> dict[str, Path]:
        """The ways besides torch to serve the files that an export recorded; none where one of them is another now."""
        return {} if self.parity is None or self.changed else find_backends(self.folder)

    @property
    def strangers(self) -> list[Path]:
        """ONNX files that no export of secateur recorded."""
        own = {} if self.parity is None else self.parity["artefacts"]
        found = sorted(self.folder.rglob("*.onnx"))
        return [path for path in found if path.relative_to(self.folder).as_posix() not in own]

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a file of the folder as a mapping. Raises ValueError: it is none."""
        data = json.loads((self.folder / name).read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError(f"{name} holds no mapping")
        return data


Check = Callable[[Subject], Iterator[Finding]]
