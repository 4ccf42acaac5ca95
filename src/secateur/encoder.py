"""The one place where sentences become unit vectors: load an encoder, embed, save.

An encoder is a sentence-transformers model whose first module is a BERT-like transformer. What it computes
after the transformer (pooling, dense layers, normalisation) is the model's own; the result is scaled to unit
length here. A pooler that the sentence vector does not use is removed at loading.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined] # of the hub's own HTTP library
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from secateur import config, modeling, padding
from secateur.config import InputError
from secateur.files import whole_folder

log = logging.getLogger(__name__)

HUB_SECONDS = 10.0


@dataclass(frozen=True)
class Encoder:
    """A sentence-transformers model with a supported transformer inside."""

    model: SentenceTransformer

    @property
    def transformer(self) -> PreTrainedModel:
        return cast(PreTrainedModel, self.model[0].model)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return cast(PreTrainedTokenizerBase, self.model.tokenizer)

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    @property
    def max_length(self) -> int:
        return cast(int, self.model[0].max_seq_length)

    @property
    def uses_pooler(self) -> bool:
        return self.model[0].module_output_name == "sentence_embedding"

    @property
    def dimension(self) -> int:
        """The length of a sentence vector."""
        return cast(int, self.model.get_embedding_dimension())

    def poolings(self, sentences: Sequence[str], *, batch_size: int = 64, progress: str = "") -> dict[str, np.ndarray]:
        """Return float32 [sentences, dimension] by pooling: own (unit), cls, mean, and pooler if it is used (raw)."""
        rows: dict[str, np.ndarray] = {}
        for where, inputs in batches(self, tokenize(self, sentences), batch_size, progress):
            with torch.inference_mode():
                output = encode(self, inputs)
            pooled = {"own": output.vectors, "cls": output.tokens[:, 0], "mean": mean_pool(output.tokens, inputs)}
            if output.pooler is not None:
                pooled["pooler"] = output.pooler
            for name, values in pooled.items():
                rows.setdefault(name, np.empty((len(sentences), values.shape[1]), np.float32))[where] = (
                    values.float().cpu().numpy()
                )
        return rows

    def word_vectors(
        self, texts: Sequence[Sequence[str]], *, batch_size: int = 64, progress: str = ""
    ) -> list[np.ndarray]:
        """Return one float32 [words, hidden] array a text: each word the mean of its pieces' last hidden states.

        Texts are cut where the position embeddings end, not at max_length; a word cut off is zeros.
        """
        encoded = self.tokenizer(
            [list(words) for words in texts],
            is_split_into_words=True,
            truncation=True,
            max_length=count_positions(self.transformer),
        )
        hidden = self.transformer.config.hidden_size
        vectors = [np.zeros((len(words), hidden), np.float32) for words in texts]
        for where, inputs in batches(self, encoded["input_ids"], batch_size, progress):
            with torch.inference_mode():
                tokens = encode(self, inputs).tokens.float().cpu().numpy()  # [B, T, hidden]
            for row, states in zip(where, tokens, strict=True):
                average_pieces(states, encoded.word_ids(row), vectors[row])
        return vectors


def count_positions(transformer: PreTrainedModel) -> int:
    """Return how many word pieces the position embeddings reach; the RoBERTa family's begin behind the padding's."""
    return int(transformer.config.max_position_embeddings) - modeling.first_position(transformer.config)


def average_pieces(states: np.ndarray, words: Sequence[int | None], out: np.ndarray) -> None:
    """Write into out[w] the mean of the states [T, hidden] whose piece belongs to word w."""
    counts = np.zeros(len(out), np.int64)
    for state, word in zip(states, words, strict=False):
        if word is not None:
            out[word] += state
            counts[word] += 1
    out /= np.maximum(counts, 1)[:, None]


@dataclass(frozen=True)
class Encoded:
    """What one batch gives: unit vectors [B, D], last hidden states [B, T, H], raw pooler output [B, H] or None."""

    vectors: Tensor
    tokens: Tensor
    pooler: Tensor | None


def load_encoder(settings: config.Teacher, *, device: str = "cpu") -> Encoder:
    """Load a sentence-transformers or bare transformers folder, or a hub name, in float32.

    `pooling: auto` keeps what the folder's modules say (a bare transformer: mean); any other value replaces
    them. Raises InputError: not a model, a model type that secateur cannot prune, or one that lacks weights.
    """
    folder = Path(settings.model)
    if folder.exists() and not (folder / "config.json").is_file():
        raise InputError(f"{settings.model}: not a model folder: it has no config.json")
    if not folder.exists():
        find_on_hub(settings.model)
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a missing or unused pooler is ours to judge
    try:
        modeling.find_family(PreTrainedConfig.get_config_dict(settings.model)[0].get("model_type", ""))
        model = read_model(settings)
        missing = find_missing(settings.model)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{settings.model}: cannot be loaded as an encoder: {reason}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    if not isinstance(model[0], Transformer):
        raise InputError(f"{settings.model}: its first module is {type(model[0]).__name__}, not a transformer")
    model[0].max_seq_length = min(settings.max_length, model[0].max_seq_length or settings.max_length)
    model[0].model.float()
    model.to(device).eval()
    if device == "cpu":
        # sentences are short: plain attention trains 1.2 times faster than the fused kernel, and embeds 1.1 times
        model[0].model.set_attn_implementation("eager")
    encoder = Encoder(model)
    check_weights(encoder, missing, origin=settings.model)
    if not encoder.uses_pooler:
        drop_pooler(encoder.transformer)
    return encoder


def pick_device(wanted: str) -> str:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda asked for, but torch sees no CUDA device")
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def find_on_hub(name: str) -> None:
    """Return if the hub has this model or it lies in the local cache; raise InputError within ten seconds if not."""
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except (HFValidationError, HTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name}: no such folder, and not found on the model hub: {reason}") from None


def read_model(settings: config.Teacher) -> SentenceTransformer:
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


def check_weights(encoder: Encoder, missing: list[str], *, origin: str) -> None:
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
    if transformer.config.model_type.startswith(modeling.PRUNED):
        transformer.config.has_pooler = False


def embed(
    encoder: Encoder, sentences: Sequence[str], *, batch_size: int = 64, precision: str = "float32", progress: str = ""
) -> np.ndarray:
    """Return the unit vector of every sentence, float32 [sentences, dimension], in the order given.

    Sentences run in batches of like length. `precision` bf16 computes matrix products in bfloat16: faster where
    the processor has it, the cosine to the float32 vector about .99999. `progress` names a progress bar; empty: none.
    """
    vectors = np.empty((len(sentences), encoder.dimension), np.float32)
    for where, inputs in batches(encoder, tokenize(encoder, sentences), batch_size, progress):
        with torch.inference_mode(), computing_in(precision, encoder.device):
            vectors[where] = encode(encoder, inputs).vectors.cpu().numpy()
    return vectors


def computing_in(precision: str, device: torch.device) -> torch.autocast:
    """Return a context in which matrix products are computed in bfloat16, if `precision` comes to bf16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=pick_precision(precision, device) == "bf16")


def pick_precision(wanted: str, device: torch.device) -> str:
    """Return float32 or bf16; `auto` is bf16 where the device has instructions for it."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "float32"


def tokenize(encoder: Encoder, sentences: Sequence[str]) -> list[list[int]]:
    """Return the word pieces of every sentence, special ones included, cut at the encoder's max_length."""
    if not sentences:
        return []
    encoded = encoder.tokenizer(list(sentences), truncation=True, max_length=encoder.max_length)
    return cast(list[list[int]], encoded["input_ids"])


def batches(
    encoder: Encoder, pieces: list[list[int]], batch_size: int, progress: str = ""
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Yield (row numbers, padded inputs) from the longest sentences to the shortest."""
    order = np.argsort([-len(row) for row in pieces], kind="stable")
    with tqdm(total=len(pieces), desc=progress, unit=" sentences", disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            where = order[start : start + batch_size]
            yield where, pad(encoder, [pieces[row] for row in where])
            bar.update(len(where))


def pad(encoder: Encoder, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return input_ids and attention_mask [B, T] on the encoder's device, padded on the right."""
    return {name: values.to(encoder.device) for name, values in pad_rows(rows, encoder.tokenizer.pad_token_id).items()}


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    ids, mask = padding.pad_rows(rows, pad_id)
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def encode(encoder: Encoder, inputs: dict[str, Tensor]) -> Encoded:
    """Run one padded batch through the transformer and the modules behind it, with gradients if they are on."""
    output = encoder.transformer(**inputs)
    pooler = output.pooler_output if encoder.uses_pooler else None
    features: dict[str, Any] = {
        "token_embeddings": output.last_hidden_state,
        "attention_mask": inputs["attention_mask"],
        "sentence_embedding": pooler,
    }
    for module in list(encoder.model)[1:]:
        features = module(features)
    pooled = features["sentence_embedding"]
    vectors = normalize(pooled.to(torch.promote_types(pooled.dtype, torch.float32)), dim=-1)
    return Encoded(vectors=vectors, tokens=output.last_hidden_state, pooler=pooler)


def mean_pool(tokens: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    mask = inputs["attention_mask"].unsqueeze(-1).to(tokens.dtype)  # [B, T, 1]
    return (tokens * mask).sum(dim=1) / mask.sum(dim=1)


def replace_transformer(encoder: Encoder, transformer: PreTrainedModel) -> Encoder:
    """Return a new encoder with copies of everything but the transformer, which is the one given."""
    first = shallow_copy(encoder.model[0])
    first.model = transformer
    rest = [deepcopy(module) for module in list(encoder.model)[1:]]
    return rebuild(encoder, [first, *rest])


def replace_tokenizer(encoder: Encoder, tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """Return a new encoder that reads with another tokenizer; it shares everything else."""
    first = shallow_copy(encoder.model[0])
    first.__dict__["processor"] = tokenizer
    return rebuild(encoder, [first, *list(encoder.model)[1:]])


def narrow_encoder(encoder: Encoder, transformer: PreTrainedModel, channels: Sequence[int]) -> Encoder:
    """Return a new encoder around a transformer that holds these channels of the encoder's hidden width alone.

    Behind its pooling a `Dense` module puts every channel back in its place, zeros between: the sentence vector keeps
    its dimension, and what follows the pooling stays. A pooler becomes a cls pooling and a `Dense` with its matrix.
    """
    width = encoder.transformer.config.hidden_size
    places = torch.eye(width, device=encoder.device)[:, list(channels)]  # [width, channels]
    first, old = shallow_copy(encoder.model[0]), encoder.model[1]
    first.model = transformer
    if encoder.uses_pooler:
        text = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
        first.__dict__.update(module_output_name="token_embeddings", modality_config=text)
        pooler = cast(nn.Linear, encoder.transformer.get_submodule("pooler.dense"))
        pooling = Pooling(len(channels), pooling_mode="cls")
        dense = make_dense(pooler.weight @ places, pooler.bias, nn.Tanh())
        rest = list(encoder.model)[1:]
    else:
        pooling = Pooling(len(channels), pooling_mode=old.pooling_mode, include_prompt=old.include_prompt)
        weight = torch.block_diag(*[places] * (old.pooling_output_dimension // width))
        dense = make_dense(weight, None, nn.Identity())
        rest = list(encoder.model)[2:]
        if rest and isinstance(rest[0], Dense):  # one matrix after the other is one matrix
            dense = make_dense(rest[0].linear.weight @ weight, rest[0].linear.bias, rest[0].activation_function)
            rest = rest[1:]
    return rebuild(encoder, [first, pooling, dense, *map(deepcopy, rest)])


def rebuild(encoder: Encoder, modules: list[nn.Module]) -> Encoder:
    """Return an encoder of these modules, with the prompts and the similarity of the one it comes from."""
    model = SentenceTransformer(modules=modules, device=str(encoder.device))
    model.prompts = dict(encoder.model.prompts)
    model.similarity_fn_name = encoder.model.similarity_fn_name
    return Encoder(model.eval())


def make_dense(weight: Tensor, bias: Tensor | None, activation: Callable[[Tensor], Tensor]) -> Dense:
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return Dense(
        weight.shape[1], len(weight), activation_function=activation, init_weight=weight.detach().clone(),
        init_bias=bias.detach().clone(),
    )  # fmt: skip


def shallow_copy(module: nn.Module) -> nn.Module:
    copied = module.__class__.__new__(module.__class__)
    copied.__dict__ = {**module.__dict__, "_modules": dict(module._modules)}
    return copied


def round_weights(encoder: Encoder) -> None:
    """Round every weight to what float16 can hold, in place: what `save_encoder` writes with `half` loads the same."""
    with torch.no_grad():
        for parameter in encoder.model.parameters():
            parameter.copy_(parameter.half())


def save_encoder(encoder: Encoder, folder: Path, *, card: str = "", half: bool = False) -> None:
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
        if transformer.config.model_type.startswith(modeling.PRUNED):
            shutil.copyfile(modeling.__file__, temporary / "modeling.py")
        elif getattr(transformer, "pooler", None) is None and modeling.stock_type(transformer.config) != "distilbert":
            set_json(temporary / "sentence_bert_config.json", "model_kwargs", {"add_pooling_layer": False})
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")
    log.info("saved %s", folder)


def set_json(path: Path, key: str, value: object) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    data[key] = value
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")
