"""An encoder -> a folder that stock sentence-transformers and transformers load."""

import json
import logging
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from secateur.config.errors import InputError
from secateur.data.files import hide_partial, whole_folder
from secateur.encoders import modeling
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.modeling import PRUNED, stock_type
from secateur.encoders.soundness import check_finite

log = logging.getLogger(__name__)


FORMATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def round_weights(encoder: TorchEncoder) -> None:
    """Round every weight, in place, to what the encoder's number format can hold: it computes as its folder will.

    Raises InputError: a weight exceeds what the format can hold.
    """
    if encoder.dtype == "float32":
        return
    with torch.no_grad():
        for parameter in encoder.model.parameters():
            parameter.copy_(parameter.to(FORMATS[encoder.dtype]))
    check_finite(encoder.model, origin=f"dtype: {encoder.dtype} cannot hold the weights")


def save_encoder(encoder: TorchEncoder, folder: Path, *, card: str = "") -> None:
    """Write a sentence-transformers folder: safetensors, tokenizer, modules; whole or not at all.

    A pruned type also gets a copy of modeling.py, so that the folder loads without secateur. `card` is the
    text of README.md. The weights are written in the encoder's number format; the config still says float32, so that
    they load as such. Raises InputError: a weight that is not finite, or that the format cannot hold.
    """
    transformer = encoder.transformer
    check_finite(encoder.model, origin=f"{hide_partial(str(folder))}: not saved")
    with whole_folder(folder) as temporary:
        encoder.model.save_pretrained(str(temporary), create_model_card=False)
        if encoder.dtype != "float32":
            for path in temporary.rglob("*.safetensors"):
                convert_file(path, FORMATS[encoder.dtype])
        if transformer.config.model_type.startswith(PRUNED):
            shutil.copyfile(modeling.__file__, temporary / "modeling.py")
        elif getattr(transformer, "pooler", None) is None and stock_type(transformer.config) != "distilbert":
            set_json(temporary / "sentence_bert_config.json", "model_kwargs", {"add_pooling_layer": False})
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")
    log.info("saved %s", hide_partial(str(folder)))


def convert_file(path: Path, dtype: torch.dtype) -> None:
    """Write the floating point weights of a file anew in another number format."""
    weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in load_file(path).items()}
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise InputError(f"{str(dtype).removeprefix('torch.')} cannot hold the numbers of the weight {name}")
    save_file(weights, path, {"format": "pt"})


def set_json(path: Path, key: str, value: object) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    data[key] = value
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")
