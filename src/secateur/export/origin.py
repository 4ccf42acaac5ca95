"""Where a model comes from, as others may be told: its name on the hub, its licence; never a path of this machine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from secateur.encoders.loading import is_there
from secateur.export.card import read_card

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
FOLDERS = re.compile(r"""(?<![\w./:~\\-])(~|[A-Za-z]:)?[/\\]([^\s/\\:;,'"()]+[/\\])+""")
LICENSE_KEYS = ("license", "license_name", "license_link")  # the latter two where the first is `other`


@dataclass(frozen=True)
class Origin:
    """A model as a card calls it."""

    name: str  # on the hub; of a folder its own name, without those above it
    base_model: str | list[str] | None = None  # the hub's names of what its weights come from; none: not known
    license: Mapping[str, str] = field(default_factory=dict)  # what a card's metadata says of it

    @property
    def metadata(self) -> dict[str, Any]:
        """What a card of its student says of it; the relation is the hub's word for changed weights."""
        known = {} if self.base_model is None else {"base_model": self.base_model, "base_model_relation": "finetune"}
        return {**known, **self.license}

    @property
    def gaps(self) -> str:
        """A sentence that says what is not known of it; empty: nothing."""
        gaps = [] if self.base_model else [f"which public model {self.name} is or comes from"]
        gaps += [] if self.license else [f"under which licence {self.name} may be used"]
        return f"Nothing says {', nor '.join(gaps)}." if gaps else ""


def find_origin(model: str) -> Origin:
    """Return what is known of a model folder, of one that was loaded from the hub, or of one in memory."""
    if not is_there(Path(model)):
        readme, is_on_hub = find_cached(model, "README.md"), find_cached(model, "config.json") is not None
        return describe_origin(readme, model if is_on_hub else bare_name(model), model if is_on_hub else None)
    return describe_origin(Path(model) / "README.md", bare_name(model), None)


def find_cached(model: str, file: str) -> Path | None:
    """Return a file of a model where the hub's cache has it: what was loaded by a name of the hub lies there."""
    try:
        found = try_to_load_from_cache(model, file)
    except (HFValidationError, OSError, ValueError):
        return None
    return Path(found) if isinstance(found, str) else None


def describe_origin(readme: Path | None, name: str, hub_name: str | None) -> Origin:
    try:
        card = "" if readme is None else readme.read_text(encoding="utf-8", errors="replace")
    except OSError:
        card = ""
    return read_origin(card, name, hub_name)


def read_origin(card: str, name: str, hub_name: str | None = None) -> Origin:
    """Return what the card of a model says of where it comes from; `hub_name`: its own name on the hub, if known."""
    data = read_card(card).data
    base = hub_name or take_hub_names(data.get("base_model"))
    return Origin(name, base, {key: value for key in LICENSE_KEYS if (value := take_license(key, data.get(key)))})


def take_hub_names(found: Any) -> str | list[str] | None:
    """Return the names of a hub among what a card calls its base models; paths, which stock trainers write, are not."""
    listed = found if isinstance(found, list) else [found]
    names = [each for each in listed if isinstance(each, str) and HUB_NAME.fullmatch(each) and not is_there(Path(each))]
    return (names[0] if len(names) == 1 else names) or None


def take_license(key: str, value: Any) -> str | None:
    """Return a licence's name or the address of its text; a link that is no address would lead nowhere from here."""
    if not isinstance(value, str) or not value.strip():
        return None
    return value if key != "license_link" or value.startswith("https://") else None


def bare_name(path: str) -> str:
    """Return the last part of a path, as either kind of system writes them."""
    last = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return last if last.strip(".~") else Path(path).expanduser().resolve().name or "model"


def hide_path(text: str) -> str:
    """Return a text as it is, or the last part of what is a path; a name of the hub, OWNER/NAME, is none."""
    is_hub_name = HUB_NAME.fullmatch(text) is not None and not is_there(Path(text))
    return text if is_hub_name or not re.search(r"[/\\]", text) or "://" in text else bare_name(text)


def hide_paths(value: Any) -> Any:
    """Return a part of a recipe with the last part of every path: the rest says how the user's machine is laid out."""
    if isinstance(value, dict):
        return {key: hide_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [hide_paths(part) for part in value]
    return hide_path(value) if isinstance(value, str) else value


def hide_folders(text: str) -> str:
    """Return a message without the folders of the absolute paths in it."""
    return FOLDERS.sub("", text)
