"""A folder or a hub name -> an encoder whose weights were all in the files."""

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined] # of the hub's own HTTP library
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from secateur.config.choices import Dtype
from secateur.config.errors import InputError, say_error
from secateur.config.teacher import TeacherSettings
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.modeling import PRUNED, find_family, find_layers
from secateur.encoders.reading import describe_reading
from secateur.encoders.soundness import (
    DTYPES,
    PLAIN,
    check_finite,
    check_tokenizer,
    check_vocabulary,
    find_absent,
    find_dtype,
    list_weight_files,
    read_header,
    read_length,
)
from secateur.encoders.static import is_static
from secateur.encoders.surgery import rebuild_model

HUB_SECONDS = 10.0
TOKENS = ("token_embeddings", "last_hidden_state")  # what a transformer gives, as sentence-transformers names it


def load_encoder(settings: TeacherSettings, *, device: str = "cpu") -> TorchEncoder:
    """Load a sentence-transformers or bare transformers folder, or a hub name; it computes in float32.

    `pooling: auto` keeps what the folder's modules say (a bare transformer: mean); any other value replaces
    them. It reads as many tokens as the folder says, or `max_length` where that is fewer, and is saved in the folder's
    number format, or in `dtype`. Raises InputError: not a model, a model type that secateur cannot prune, one that
    lacks weights or holds numbers that are not finite, or a tokenizer that does not go with it.
    """
    folder = Path(settings.model)
    there = is_there(folder)
    if there:
        check_folder(folder)
    else:
        find_on_hub(settings.model)
    try:
        with quiet_transformers():
            find_family(PreTrainedConfig.get_config_dict(settings.model)[0].get("model_type", ""))
            model = read_model(settings)
            transformer = check_transformer(model, origin=settings.model).model
            header = read_header(list_weight_files(folder)) if there else {}
            missing = find_missing(settings.model) if not header or find_absent(transformer, header) else []
    except InputError:
        raise
    except Exception as error:  # a broken folder may raise anything in transformers, tokenizers or torch
        raise InputError(f"{settings.model}: cannot be loaded as an encoder: {say_error(error)}") from error
    found = find_dtype(header) if header else name_dtype(transformer.dtype)
    dtype = found if settings.dtype == "auto" else settings.dtype
    first, length = check_sound(model, missing, origin=settings.model, tokenizer_file=find_tokenizer(settings.model))
    first.max_seq_length = length if settings.max_length is None else min(settings.max_length, length)
    return prepare_model(model.to(device), dtype=dtype, origin=settings.model)


def wrap_model(model: SentenceTransformer) -> TorchEncoder:
    """Return a SentenceTransformer in memory as an encoder, by way of a copy: the one given stays as it is.

    Raises InputError: its model type is one that secateur cannot prune, or it is not sound.
    """
    origin = "the SentenceTransformer"
    first = check_transformer(model, origin=origin)
    try:
        find_family(first.model.config.model_type)
    except ValueError as error:
        raise InputError(f"{origin}: {error}") from None
    copied = deepcopy(model)
    dtype = name_dtype(first.model.dtype)
    module, length = check_sound(copied, [], origin=origin, tokenizer_file=None)
    module.max_seq_length = length
    return prepare_model(copied, dtype=dtype, origin=origin)


def check_folder(folder: Path) -> None:
    """Raise InputError for a folder that is no model's, before any of it is read into memory."""
    if not folder.is_dir():
        raise InputError(f"{folder}: a file, not a model folder")
    if is_static(folder):
        raise InputError(f"{folder}: a static model, which has no transformer; encode, infer and retrieve read it")
    if not is_file(folder / "config.json"):
        raise InputError(f"{folder}: not a model folder: it has no config.json")
    if is_file(folder / "adapter_config.json"):
        raise InputError(f"{folder}: an adapter for another model; merge it into that model first")
    try:
        read = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / 'config.json'}: cannot be read as JSON: {say_error(error)}") from None
    if not isinstance(read, dict):
        raise InputError(f"{folder / 'config.json'}: a model's config is a mapping, this is {type(read).__name__}")


def check_transformer(model: SentenceTransformer, *, origin: str) -> Any:
    """Return a model's first module. Raises InputError: it is not a transformer."""
    first = model[0] if len(model) else None
    if not isinstance(first, Transformer):
        raise InputError(f"{origin}: its first module is {type(first).__name__}, not a transformer")
    return first


def check_sound(
    model: SentenceTransformer, missing: list[str], *, origin: str, tokenizer_file: Path | None
) -> tuple[Transformer, int]:
    """Return a model's first module and how many tokens it reads; raise InputError for what is not sound."""
    first = check_transformer(model, origin=origin)
    if model.truncate_dim is not None:
        raise InputError(f"{origin}: its vectors are cut to truncate_dim: {model.truncate_dim}; set it to none (null)")
    transformer, tokenizer = first.model, first.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(f"{origin}: it has no tokenizer")
    if not find_layers(transformer):
        raise InputError(f"{origin}: it has no layers")
    check_weights(model, missing, origin=origin)
    check_finite(model, origin=origin)
    check_vocabulary(tokenizer, transformer, origin=origin)
    length = read_length(tokenizer, transformer, origin=origin)
    if tokenizer_file is not None:
        check_tokenizer(tokenizer, tokenizer_file, lowercase=bool(first.do_lower_case), origin=origin)
    return first, length


def prepare_model(model: SentenceTransformer, *, dtype: Dtype, origin: str) -> TorchEncoder:
    """Put a model into float32, evaluation mode and, on a CPU, plain attention, without a pooler that it does not use.

    Raises InputError: it reads in a way that secateur does not know, or a sentence does not become a finite vector.
    """
    transformer = cast(PreTrainedModel, model[0].model)
    model.float()
    model.eval()
    if model.device.type == "cpu":
        # sentences are short: plain attention trains 1.2 times faster than the fused kernel, and embeds 1.1 times
        transformer.set_attn_implementation("eager")
    encoder = TorchEncoder(model, dtype)
    if not encoder.uses_pooler:
        drop_pooler(transformer)
    try:
        describe_reading(encoder)
        vector = embed(encoder, PLAIN[:1])
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None
    except Exception as error:  # modules that do not fit together raise what torch finds
        raise InputError(f"{origin}: cannot embed a sentence: {say_error(error)}") from error
    if not np.isfinite(vector).all():
        raise InputError(f"{origin}: the vector of a sentence is not finite")
    return encoder


def name_dtype(dtype: torch.dtype) -> Dtype:
    return {torch.float16: DTYPES["F16"], torch.bfloat16: DTYPES["BF16"]}.get(dtype, "float32")


def find_tokenizer(model: str) -> Path | None:
    """Return the tokenizer.json of a folder, or of a hub's model in the local cache."""
    path = Path(model) / "tokenizer.json"
    if is_file(path):
        return path
    cached = None if is_there(Path(model)) else try_to_load_from_cache(model, "tokenizer.json")
    return Path(cached) if isinstance(cached, str) else None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing bars and from judging weights in a warning: that is done here."""
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def find_on_hub(name: str) -> None:
    """Return if the hub has this model or it lies in the local cache; raise InputError within ten seconds if not."""
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except HfHubHTTPError as error:
        raise InputError(
            f"{name}: no such folder{name_like(name)}, and the model hub has none: {say_error(error)}"
        ) from None
    except HFValidationError:
        raise InputError(f"{name}: no such folder{name_like(name)}, and no name of a model on the hub") from None
    except (HTTPError, OSError):
        raise InputError(f"{name}: no such folder{name_like(name)}, and the model hub cannot be reached") from None


def is_there(path: Path) -> bool:
    """Return whether there is something of this name; a name that no file can have is not there."""
    try:
        return path.exists() or path.is_symlink()
    except (OSError, ValueError, RuntimeError):  # too long, with a zero byte, links in a circle
        return False


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def name_like(name: str) -> str:
    """Return " (did you mean models/mine?)" where a folder beside is called nearly the same, or nothing."""
    path = Path(name)
    there = [each.name for each in path.parent.iterdir() if each.is_dir()] if is_there(path.parent / ".") else []
    close = difflib.get_close_matches(path.name, there, n=1)
    return f" (did you mean {path.with_name(close[0])}?)" if close else ""


def read_model(settings: TeacherSettings) -> SentenceTransformer:
    """Return a model as sentence-transformers reads it; with another pooling than its own, unit vectors behind it."""
    model = SentenceTransformer(settings.model, device="cpu")
    if settings.pooling == "auto":
        return model
    first = check_transformer(model, origin=settings.model)
    output, name = ("sentence_embedding", "pooler_output") if settings.pooling == "pooler" else TOKENS
    text = {"text": {"method": "forward", "method_output_name": name}}
    first.__dict__.update(module_output_name=output, modality_config=text)
    modules: list[nn.Module] = [first, Normalize()]
    if settings.pooling != "pooler":
        modules.insert(1, Pooling(first.get_embedding_dimension(), pooling_mode=settings.pooling))
    return rebuild_model(model, modules)


def find_missing(model: str) -> list[str]:
    """Return the weights that the files lack: transformers draws them at random and says so in a warning only."""
    _, report = AutoModel.from_pretrained(model, output_loading_info=True)
    return sorted(report["missing_keys"])


def check_weights(model: SentenceTransformer, missing: list[str], *, origin: str) -> None:
    """Raise InputError if a weight that the sentence vector uses was not in the files."""
    transformer = model[0].model
    lacks_pooler = getattr(transformer, "pooler", None) is None or "pooler.dense.weight" in missing
    if TorchEncoder(model).uses_pooler and lacks_pooler:
        raise InputError(f"{origin}: pooling is pooler, but the model has none")
    needed = [name for name in missing if not name.startswith("pooler.")]
    if needed:
        raise InputError(f"{origin}: the files lack {len(needed)} weights of the model, the first is {needed[0]}")


def drop_pooler(transformer: PreTrainedModel) -> None:
    if getattr(transformer, "pooler", None) is not None:
        transformer.register_module("pooler", None)
    if transformer.config.model_type.startswith(PRUNED):
        transformer.config.has_pooler = False
