"""An encoder -> a folder that stock sentence-transformers and transformers load."""

import json
import logging
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from secateur.data.files import whole_folder
from secateur.encoders import modeling
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.modeling import PRUNED, stock_type

log = logging.getLogger(__name__)


def round_weights(encoder: TorchEncoder) -> None:
    """Round every weight to what float16 can hold, in place: what `save_encoder` writes with `half` loads the same."""
    with torch.no_grad():
        for parameter in encoder.model.parameters():
            parameter.copy_(parameter.half())


def save_encoder(encoder: TorchEncoder, folder: Path, *, card: str = "", half: bool = False) -> None:
    """Write a sentence-transformers folder: safetensors, tokenizer, modules; whole or not at all.

    A pruned type also gets a copy of modeling.py, so that the folder loads without secateur. `card` is the
    text of README.md. `half` writes the transformer in float16; its config still says
    float32, so that it loads as such.
    """
    transformer = encoder.transformer
    with whole_folder(folder) as temporary:
        encoder.model.save_pretrained(str(temporary), create_model_card=False)
        if half:
            path = temporary / "model.safetensors"
            save_file({name: value.half() for name, value in load_file(path).items()}, path, {"format": "pt"})
        if transformer.config.model_type.startswith(PRUNED):
            shutil.copyfile(modeling.__file__, temporary / "modeling.py")
        elif getattr(transformer, "pooler", None) is None and stock_type(transformer.config) != "distilbert":
            set_json(temporary / "sentence_bert_config.json", "model_kwargs", {"add_pooling_layer": False})
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")
    log.info("saved %s", folder)


def set_json(path: Path, key: str, value: object) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    data[key] = value
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")
