"""A student as an object: sentences in, unit vectors out; saved, pushed, distilled further."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from secateur.config.errors import InputError
from secateur.config.recipe import PruningRecipe
from secateur.config.teacher import TeacherSettings
from secateur.config.values import Pooling
from secateur.data.files import check_out
from secateur.encoders.cost import count_bytes, count_parameters
from secateur.encoders.device import pick_device
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.loading import load_encoder, wrap_model
from secateur.encoders.saving import save_encoder
from secateur.export.publish import push
from secateur.reports.cards import write_card
from secateur.reports.display import PlanTable, StageTable


@dataclass(frozen=True, repr=False)
class Student:
    """An encoder that was pruned, distilled or loaded.

    `plan` says what was kept and why, `table` what each stage came to on held-out pairs; both are tables in a
    notebook, and None where the model was only loaded.
    """

    encoder: TorchEncoder
    plan: PlanTable | None = None
    table: StageTable | None = None
    recipe: PruningRecipe | None = None
    name: str = "student"  # what tables call it

    @property
    def model(self) -> SentenceTransformer:
        """The sentence-transformers model inside."""
        return self.encoder.model

    @property
    def parameters(self) -> int:
        """How many parameters a sentence vector needs."""
        return count_parameters(self.encoder)

    @property
    def mb(self) -> float:
        """How many megabytes the weights take as they are saved."""
        return count_bytes(self.encoder) / 1e6

    def encode(self, sentences: str | Sequence[str], *, batch_size: int = 64, progress: str = "") -> np.ndarray:
        """Return float32 unit vectors [sentences, dimension] in the order given, [dimension] for a single sentence.

        vectors = student.encode(["Hello, world", "Привет, мир"])
        """
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        vectors = embed(self.encoder, texts, batch_size=batch_size, progress=progress)
        return vectors[0] if isinstance(sentences, str) else vectors

    def save(self, folder: str | Path) -> Path:
        """Write a folder that stock sentence-transformers and transformers load, with a model card; return it.

        Raises InputError: the folder is there and is not a model's.
        """
        path = Path(folder)
        check_out(path)
        card = ""
        if self.recipe is not None and self.table is not None:
            card = write_card(replace(self.recipe, name=path.name), self.table.rows, {})
        save_encoder(self.encoder, path, card=card)
        return path

    def push(self, repository: str, *, private: bool = False, dry_run: bool = False) -> str:
        """Upload the student to a model hub as OWNER/NAME and return its address; the token is `hf auth login`'s.

        `dry_run` returns the list of files and sizes instead. Raises InputError: no token, or the hub's refusal.
        """
        with TemporaryDirectory() as folder:
            saved = self.save(Path(folder) / repository.rpartition("/")[2])
            return push(saved, repository, dry_run=dry_run, private=private)

    def __repr__(self) -> str:
        return f"Student({self.parameters:,} parameters, vectors of {self.encoder.dimension})"


def open_model(model: Any, *, pooling: Pooling = "auto", device: str = "auto") -> TorchEncoder:
    """Return the encoder of a student, a folder or hub name, or a SentenceTransformer.

    Raises InputError: none of these, or a model that secateur cannot prune.
    """
    if isinstance(model, Student):
        return model.encoder
    if isinstance(model, TorchEncoder):
        return model
    if isinstance(model, SentenceTransformer):
        return wrap_model(model)
    if isinstance(model, str | Path):
        return load_encoder(TeacherSettings(model=str(model), pooling=pooling), device=pick_device(device))
    raise InputError(f"model: {type(model).__name__} is not a folder, a hub name, a SentenceTransformer or a Student")


def name_model(model: Any) -> str:
    """Return what a card calls a model."""
    if isinstance(model, str | Path):
        return str(model)
    if isinstance(model, Student):
        return model.name
    encoder = TorchEncoder(model) if isinstance(model, SentenceTransformer) else open_model(model)
    return str(encoder.transformer.config.name_or_path or "a model in memory")
