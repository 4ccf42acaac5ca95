"""A packed encoder (`data.packed`) as a BERT with an XLM-R tokenizer.

The tokenizer is rebuilt from the file's tokens and scores: Unigram, text normalised by Nmt and NFKC, split at blanks,
each word begun with a metaspace, `<s> text </s>`. The file's own normalization map has an entry for each sign alone;
Nmt and NFKC also join signs that stand beside each other (и and a breve are й), as SentencePiece's nmt_nfkc does.
"""

from collections.abc import Mapping

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from secateur.config.errors import InputError
from secateur.data.packed import PackedEncoder, PackedShape, PackedTokenizer

MASK = "<mask>"
OTHERWISE = 8  # signs of the map that may be read in another way: versions of Unicode differ in a few

EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def build_transformer(packed: PackedEncoder) -> BertModel:
    """Return the packed weights as a BERT without a pooler, float32.

    Raises InputError: a tensor that is missing, that is of another size than the shape says, or not finite.
    """
    shape, tokenizer = packed.shape, packed.tokenizer
    if shape.rows < len(tokenizer.tokens):
        raise InputError(f"packed encoder: {len(tokenizer.tokens)} tokens, {shape.rows} rows of word embeddings")
    config = BertConfig(
        vocab_size=shape.rows,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.neurons,
        max_position_embeddings=shape.positions,
        type_vocab_size=shape.types,
        layer_norm_eps=round(shape.epsilon, 15),
        pad_token_id=tokenizer.pad,
        bos_token_id=tokenizer.bos,
        eos_token_id=tokenizer.eos,
    )
    with torch.device("meta"):  # a damaged file may name sizes that no memory holds; its tensors are asked first
        model = BertModel(config, add_pooling_layer=False)
    weights = {
        name: torch.from_numpy(find_tensor(packed.tensors, source, tuple(model.get_parameter(name).shape)))
        for source, name in list_names(shape).items()
    }
    model = model.to_empty(device="cpu")
    model.load_state_dict(weights, strict=False)  # what is not in it are buffers, made below
    model.embeddings.position_ids.copy_(torch.arange(shape.positions)[None])
    model.embeddings.token_type_ids.zero_()
    model.eval()
    return model


def list_names(shape: PackedShape) -> dict[str, str]:
    """Return transformers' name of every weight, by the packed file's."""
    layers = {
        f"l{number}.{short}.{short_part}": f"encoder.layer.{number}.{name}.{part}"
        for number in range(shape.layers)
        for short, name in LAYER.items()
        for short_part, part in (("w", "weight"), ("b", "bias"))
    }
    return EMBEDDINGS | layers


def find_tensor(tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in tensors:
        raise InputError(f"packed encoder: has no tensor {name}")
    values = tensors[name]
    if values.size != int(np.prod(shape)):
        raise InputError(f"packed encoder: its tensor {name} has {values.size} numbers, {shape} are needed")
    if not np.isfinite(values).all():
        raise InputError(f"packed encoder: its tensor {name} has numbers that are not finite")
    return values.reshape(shape)


def build_tokenizer(packed: PackedTokenizer, *, max_length: int) -> PreTrainedTokenizerFast:
    """Return the packed tokens as an XLM-R tokenizer of transformers, which reads at most `max_length` tokens.

    Raises InputError: the file normalises text in another way than nmt_nfkc.
    """
    normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    check_normalization(packed.normalization, normalizer)
    names = {role: packed.tokens[getattr(packed, role)] for role in ("bos", "eos", "pad", "unk")}
    bos, eos = names["bos"], names["eos"]
    backend = Tokenizer(models.Unigram(list(zip(packed.tokens, packed.scores, strict=True)), packed.unk, False))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(
        single=[bos, "$A", eos],
        pair=[bos, "$A", eos, eos, "$B", eos],
        special_tokens=[(bos, packed.bos), (eos, packed.eos)],
    )
    mask = {"mask_token": AddedToken(MASK, lstrip=True, special=True)} if MASK in packed.tokens else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos,
        cls_token=bos,
        sep_token=eos,
        pad_token=names["pad"],
        unk_token=names["unk"],
        model_max_length=max_length,
        **mask,
    )


def check_normalization(found: Mapping[str, str], normalizer: normalizers.Normalizer) -> None:
    otherwise = [sign for sign, read in found.items() if normalizer.normalize_str(sign) != read]
    if len(otherwise) > OTHERWISE:
        raise InputError(
            f"packed encoder: its text is not normalised as by nmt_nfkc: {len(otherwise)} signs of {len(found)} are "
            f"read in another way, the first {otherwise[0]!r}"
        )
