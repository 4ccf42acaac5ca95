"""A folder or a hub name -> an encoder whose weights were all in the files."""

import difflib
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined] # of the hub's own HTTP library
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from secateur.config.errors import InputError
from secateur.config.teacher import TeacherSettings
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.modeling import PRUNED, find_family

HUB_SECONDS = 10.0


def load_encoder(settings: TeacherSettings, *, device: str = "cpu") -> TorchEncoder:
    """Load a sentence-transformers or bare transformers folder, or a hub name, in float32.

    `pooling: auto` keeps what the folder's modules say (a bare transformer: mean); any other value replaces
    them. Raises InputError: not a model, a model type that secateur cannot prune, or one that lacks weights.
    """
    folder = Path(settings.model)
    there = is_there(folder)
    if there and not (folder / "config.json").is_file():
        raise InputError(f"{settings.model}: not a model folder: it has no config.json")
    if not there:
        find_on_hub(settings.model)
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a missing or unused pooler is ours to judge
    try:
        find_family(PreTrainedConfig.get_config_dict(settings.model)[0].get("model_type", ""))
        model = read_model(settings)
        missing = find_missing(settings.model)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{settings.model}: cannot be loaded as an encoder: {reason}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    first = check_transformer(model, origin=settings.model)
    first.max_seq_length = min(settings.max_length, first.max_seq_length or settings.max_length)
    return prepare_model(model.to(device), missing, origin=settings.model)


def wrap_model(model: SentenceTransformer) -> TorchEncoder:
    """Return a SentenceTransformer in memory as an encoder, by way of a copy: the one given stays as it is.

    Raises InputError: its model type is one that secateur cannot prune.
    """
    origin = "the SentenceTransformer"
    first = check_transformer(model, origin=origin)
    try:
        find_family(first.model.config.model_type)
    except ValueError as error:
        raise InputError(f"{origin}: {error}") from None
    return prepare_model(deepcopy(model), [], origin=origin)


def check_transformer(model: SentenceTransformer, *, origin: str) -> Any:
    """Return a model's first module. Raises InputError: it is not a transformer."""
    first = model[0]
    if not isinstance(first, Transformer):
        raise InputError(f"{origin}: its first module is {type(first).__name__}, not a transformer")
    return first


def prepare_model(model: SentenceTransformer, missing: list[str], *, origin: str) -> TorchEncoder:
    """Put a model into float32, evaluation mode and, on a CPU, plain attention, without a pooler that it does not use.

    Raises InputError: a weight that its sentence vector uses is among the `missing` ones.
    """
    transformer = cast(PreTrainedModel, model[0].model)
    transformer.float()
    model.eval()
    if model.device.type == "cpu":
        # sentences are short: plain attention trains 1.2 times faster than the fused kernel, and embeds 1.1 times
        transformer.set_attn_implementation("eager")
    encoder = TorchEncoder(model)
    check_weights(encoder, missing, origin=origin)
    if not encoder.uses_pooler:
        drop_pooler(transformer)
    return encoder


def find_on_hub(name: str) -> None:
    """Return if the hub has this model or it lies in the local cache; raise InputError within ten seconds if not."""
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except HfHubHTTPError as error:
        raise InputError(f"{name}: no such folder{name_like(name)}, and the model hub has none: {say(error)}") from None
    except HFValidationError:
        raise InputError(f"{name}: no such folder{name_like(name)}, and no name of a model on the hub") from None
    except (HTTPError, OSError):
        raise InputError(f"{name}: no such folder{name_like(name)}, and the model hub cannot be reached") from None


def is_there(folder: Path) -> bool:
    """Return whether there is something of this name; a name that no file can have is not there."""
    try:
        return folder.exists()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def name_like(name: str) -> str:
    """Return " (did you mean models/mine?)" where a folder beside is called nearly the same, or nothing."""
    path = Path(name)
    there = [each.name for each in path.parent.iterdir() if each.is_dir()] if is_there(path.parent / ".") else []
    close = difflib.get_close_matches(path.name, there, n=1)
    return f" (did you mean {path.with_name(close[0])}?)" if close else ""


def say(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_model(settings: TeacherSettings) -> SentenceTransformer:
    if settings.pooling == "auto":
        return SentenceTransformer(settings.model, device="cpu")
    if settings.pooling == "pooler":
        text = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
        transformer = Transformer(settings.model, modality_config=text, module_output_name="sentence_embedding")
        return SentenceTransformer(modules=[transformer, Normalize()], device="cpu")
    transformer = Transformer(settings.model)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=settings.pooling)
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")


def find_missing(model: str) -> list[str]:
    """Return the weights that the files lack: transformers draws them at random and says so in a warning only."""
    _, report = AutoModel.from_pretrained(model, output_loading_info=True)
    return sorted(report["missing_keys"])


def check_weights(encoder: TorchEncoder, missing: list[str], *, origin: str) -> None:
    """Raise InputError if a weight that the sentence vector uses was not in the files."""
    lacks_pooler = getattr(encoder.transformer, "pooler", None) is None or "pooler.dense.weight" in missing
    if encoder.uses_pooler and lacks_pooler:
        raise InputError(f"{origin}: pooling is pooler, but the model has none")
    needed = [name for name in missing if not name.startswith("pooler.")]
    if needed:
        raise InputError(f"{origin}: the files lack {len(needed)} weights of the model, the first is {needed[0]}")


def drop_pooler(transformer: PreTrainedModel) -> None:
    if getattr(transformer, "pooler", None) is not None:
        transformer.register_module("pooler", None)
    if transformer.config.model_type.startswith(PRUNED):
        transformer.config.has_pooler = False
