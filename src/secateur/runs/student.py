"""A student as an object: sentences in, unit vectors out; saved, pushed, distilled further."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from secateur.config.choices import Device, Pooling
from secateur.config.errors import InputError
from secateur.config.places import name_place
from secateur.config.reading import build_settings, check_value
from secateur.config.recipe import PruningRecipe
from secateur.config.teacher import TeacherSettings
from secateur.config.values import Positive
from secateur.data.files import check_out
from secateur.encoders.cost import count_bytes, count_parameters
from secateur.encoders.device import pick_device
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.inference import check_text, check_texts
from secateur.encoders.loading import is_there, load_encoder, wrap_model
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
    step: int | None = None  # of distillation, whose student this is; 0: the one before it
    card: str = ""  # README.md of the folder it was loaded from; a student with a table gets a new one

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

    def encode(self, sentences: str | Iterable[str], *, batch_size: int = 64, progress: str = "") -> np.ndarray:
        """Return float32 unit vectors [sentences, dimension] in the order given, [dimension] for a single sentence.

            vectors = student.encode(["Hello, world", "Привет, мир"])

        `progress` names a progress bar; empty: none. Raises InputError: an item that is not a text.
        """
        check_texts(sentences)
        items = [sentences] if isinstance(sentences, str) else sentences
        texts = [check_text(number, item) for number, item in enumerate(items)]
        size = check_value("batch_size", batch_size, Positive)
        vectors = embed(self.encoder, texts, batch_size=size, progress=progress)
        return vectors[0] if isinstance(sentences, str) else vectors

    def save(self, folder: str | Path) -> Path:
        """Write a folder that stock sentence-transformers and transformers load, with a model card; return it.

        A model that is in this folder is replaced. Raises InputError: the folder holds anything else, or cannot be
        written.
        """
        path = find_path("folder", folder)
        path = name_place(path)
        check_out(path)
        card = self.card
        if self.recipe is not None and self.table is not None:
            recipe = replace(self.recipe, name=path.name)
            card = write_card(recipe, self.table.rows, {}, step=self.step, has_record=False)
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


def open_model(model: Any, *, pooling: str = "auto", device: str = "auto") -> TorchEncoder:
    """Return the encoder of a student, a folder or hub name, or a SentenceTransformer, which is copied.

    Raises InputError: none of these; a model that secateur cannot prune; a pooling or another device for a model that
    is in memory, which has its own.
    """
    check_value("pooling", pooling, Pooling)
    check_value("device", device, Device)
    if isinstance(model, str | Path):
        path = find_path("model", model)
        name = str(path) if is_there(path) else str(model)
        settings = build_settings(TeacherSettings, {"model": name, "pooling": pooling}, origin="")
        return load_encoder(settings, device=pick_device(device))
    if not isinstance(model, Student | TorchEncoder | SentenceTransformer):
        kinds = "a folder, a hub name, a SentenceTransformer or a Student"
        raise InputError(f"model: {type(model).__name__} is not {kinds}")
    if pooling != "auto":
        raise InputError(f"pooling: {pooling} is named for a model in memory, which has its own")
    encoder = wrap_model(model) if isinstance(model, SentenceTransformer) else model
    encoder = encoder.encoder if isinstance(encoder, Student) else encoder
    if device not in ("auto", encoder.device.type):
        raise InputError(f"device: {device} asked for, but the model in memory is on {encoder.device.type}")
    return encoder


def find_path(name: str, value: Any) -> Path:
    """Return an argument as a path, `~` as the home folder. Raises InputError: it is not a path, or empty."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise InputError(f"{name}: {value!r:.80} is not the name of a file or folder")
    return Path(value).expanduser()


def name_model(model: Any) -> str:
    """Return what a card calls a model."""
    if isinstance(model, str | Path):
        return str(model)
    if isinstance(model, Student):
        return model.name
    encoder = TorchEncoder(model) if isinstance(model, SentenceTransformer) else open_model(model)
    return str(encoder.transformer.config.name_or_path or "a model in memory")
