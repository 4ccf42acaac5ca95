"""A hash of everything that a sentence vector of an encoder depends on."""

import hashlib
import json
from collections.abc import Sequence

from secateur.encoders.encoder import TorchEncoder

PROVENANCE = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")  # of a config
LAST_CALL = ("truncation", "padding")  # of a tokenizer: what it was last called with


def fingerprint(encoder: TorchEncoder) -> str:
    """Return a hash of an encoder's weights, config, tokenizer, prompt, length, pooling and what follows it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    settings = encoder.transformer.config.to_diff_dict()
    tokenizer = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
    modules = [repr(module) for module in list(encoder.model)[1:]]
    content = [without(settings, PROVENANCE), without(tokenizer, LAST_CALL), modules, encoder.max_length]
    content += [encoder.uses_pooler, encoder.prompt, encoder.prompt_length]
    digest.update(json.dumps(content, sort_keys=True).encode())
    return digest.hexdigest()[:32]


def without(data: dict[str, object], keys: Sequence[str]) -> dict[str, object]:
    return {key: value for key, value in data.items() if key not in keys}
