"""What was measured once is not measured again: saliency and trial cuts, filed under a hash of all they come from."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from secateur.config.pruning import SaliencySettings
from secateur.data.files import write_json
from secateur.data.pairs import Pairs
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.fingerprint import fingerprint
from secateur.encoders.modeling import count_heads, count_neurons
from secateur.pruning.scores import Saliency, list_tensors, load_saliency, save_saliency

log = logging.getLogger(__name__)


def recall_saliency(
    cache: Path,
    encoder: TorchEncoder,
    pairs: Pairs,
    settings: SaliencySettings,
    seed: int,
    measure: Callable[[], Saliency],
) -> Saliency:
    """Return what `measure` gave for this encoder, pairs and settings before, else what it gives now, and keep that.

    An entry whose content is not what was written is measured anew.
    """
    content = [fingerprint(encoder), encoder.device.type, pairs.en, pairs.ru, asdict(settings), seed]
    path = cache / "saliency" / f"{hash_content(content)}.safetensors"
    try:
        saliency = load_saliency(path)
        if read_digest(path) == hash_saliency(saliency) and fits(saliency, encoder):
            log.info("saliency of this model on these pairs was measured before: %s", path)
            return saliency
        log.warning("%s is damaged: saliency is measured anew", path)
    except FileNotFoundError:
        pass
    except Exception as error:  # whatever rubbish does to its reader
        log.warning("%s cannot be read (%s): saliency is measured anew", path, type(error).__name__)
    saliency = measure()
    keep(path, lambda: save_saliency(saliency, path, digest=hash_saliency(saliency)))
    return saliency


def fits(saliency: Saliency, encoder: TorchEncoder) -> bool:
    """Return whether these are scores of such an encoder: as many of each axis, all finite."""
    transformer = encoder.transformer
    shapes = [[len(layer) for layer in axis] for axis in (saliency.heads, saliency.neurons)]
    scores = (*saliency.heads, *saliency.neurons, saliency.hidden)
    return (
        shapes == [list(count_heads(transformer)), list(count_neurons(transformer))]
        and len(saliency.hidden) == transformer.config.hidden_size
        and all(each.dtype == torch.float64 and bool(torch.isfinite(each).all()) for each in scores)
    )


def hash_content(content: Any) -> str:
    """Return a hash of plain content and of the versions that compute with it."""
    versions = [version(package) for package in ("secateur", "torch", "transformers", "tokenizers")]
    return hashlib.sha256(json.dumps([content, versions], sort_keys=True).encode()).hexdigest()[:32]


def hash_saliency(saliency: Saliency) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(list_tensors(saliency).items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def read_digest(path: Path) -> str | None:
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("sha256")


def recall_losses(cache: Path, content: Any) -> dict[str, float]:
    """Return what trial cuts of this content lost before, by the sizes they were cut to; nothing where none is kept."""
    try:
        kept = json.loads(name_losses(cache, content).read_text(encoding="utf-8"))
        losses = {str(sizes): float(loss) for sizes, loss in kept["losses"].items()}
        return losses if hash_losses(losses) == kept["sha256"] and np.isfinite([*losses.values(), 0.0]).all() else {}
    except FileNotFoundError:
        return {}
    except Exception as error:  # whatever rubbish does to its reader
        log.warning("%s cannot be read (%s)", name_losses(cache, content), type(error).__name__)
        return {}


def keep_losses(cache: Path, content: Any, losses: Mapping[str, float]) -> None:
    """Write what trial cuts lost where `recall_losses` finds it."""
    path = name_losses(cache, content)
    keep(path, lambda: write_json(path, {"losses": dict(losses), "sha256": hash_losses(losses)}))


def name_losses(cache: Path, content: Any) -> Path:
    return cache / "trials" / f"{hash_content(content)}.json"


def hash_losses(losses: Mapping[str, float]) -> str:
    return hashlib.sha256(json.dumps(sorted(losses.items())).encode()).hexdigest()


def hash_texts(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def keep(path: Path, write: Callable[[], None]) -> None:
    """Write a file of the cache; where that cannot be done, it is said and nothing else happens."""
    try:
        write()
    except OSError as error:
        log.warning("%s: cannot be written: %s; it will be measured again", path, error.strerror or error)
