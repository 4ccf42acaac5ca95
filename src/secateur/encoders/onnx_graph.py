"""ONNX files of every encoder that secateur makes: ragged heads, layers without heads, low-rank words, `Dense`.

The graph is written node by node from the weights, not traced: attention, and GELU with its bias, are ONNX Runtime's
fused operators from the start, with the head counts that each layer has.
Inputs: input_ids, attention_mask, int64 [B, T]. Outputs: sentence_embedding [B, D], pooled, through the modules behind
the pooling, at unit length; it comes first, for whoever takes the first output. last_hidden_state [B, T, H], for
libraries that ask for it by name and pool themselves.
"""

from collections.abc import Container, Sequence
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch import Tensor, nn

from secateur.config.errors import InputError
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.modeling import (
    LowRankEmbedding,
    count_heads,
    find_layers,
    find_linear,
    head_size,
    layer_names,
    stock_type,
)

FUSED = "com.microsoft"  # ONNX Runtime's own operators
OPSET, FUSED_OPSET, IR = 17, 1, 9
LIMIT = 2**31 - 2**24  # bytes of weights: a protocol buffer ends at 2 GB
LEVELS = 127  # of a symmetric int8 value
INPUTS = ("input_ids", "attention_mask")
DENSE_ACTIVATIONS = {"Identity": "", "Tanh": "Tanh", "ReLU": "Relu"}  # torch's name: ONNX's


class Graph:
    """Nodes and weights of a graph while it is written; the matrices named in `int8` are written as such."""

    def __init__(self, int8: Container[str] = (), *, levels: int = LEVELS) -> None:
        self.int8, self.levels = int8, levels
        self.matrices: list[str] = []  # every matrix that may be int8, in order
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.names: dict[str, int] = {}
        self.shared: dict[str, str] = {}  # what is written when it is first asked for, and read in many places

    @property
    def mask(self) -> str:
        """The attention_mask as int32 [B, T]."""
        if "mask" not in self.shared:
            self.shared["mask"] = self.add("Cast", "attention_mask", to=TensorProto.INT32)
        return self.shared["mask"]

    def number(self, name: str, value: np.generic) -> str:
        """Return the name of a constant number, written once."""
        if name not in self.shared:
            self.shared[name] = self.weight(name, np.asarray(value))
        return self.shared[name]

    def weight(self, name: str, values: np.ndarray | Tensor | Sequence[int]) -> str:
        """Add a constant and return its name; tensors become float32."""
        array = as_array(values) if isinstance(values, Tensor) else np.asarray(values)
        self.weights.append(numpy_helper.from_array(array.copy(order="C"), name))
        return name

    def add(self, kind: str, *inputs: str, domain: str = "", outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Add a node and return its first output; `outputs` names them, else a name is made."""
        number = self.names[kind] = self.names.get(kind, -1) + 1
        named = list(outputs) or [f"{kind}_{number}"]
        node = helper.make_node(kind, list(inputs), named, name=f"{kind}_{number}_node", domain=domain, **attributes)
        self.nodes.append(node)
        return named[0]

    def multiply(self, values: str, name: str, matrix: Tensor | np.ndarray) -> str:
        """Add values times a matrix [inputs, outputs]; in int8 each output has a scale, and so has each row of values.

        A row's scale is its own largest value's, so no row depends on another one's values. DynamicQuantizeMatMul, one
        node in place of six, has one scale for a whole batch: a sentence's vector is then another one in other company
        (cosine .97 to .99), and farther from the float model's. In a row of zeros 0 / 0 becomes some whole number, and
        the product is multiplied by 0.
        """
        self.matrices.append(name)
        if name not in self.int8:
            return self.add("MatMul", values, self.weight(name, matrix))
        whole, scales = quantize(as_array(matrix), axis=0, levels=self.levels)
        step, middle = self.number("int8.step", np.float32(1 / 127)), self.number("int8.middle", np.uint8(128))
        largest = self.add("ReduceMax", self.add("Abs", values), axes=[-1], keepdims=1)
        steps = self.add("QuantizeLinear", self.add("Div", values, largest), step, middle)  # 1 to 255
        parts = self.weight(name, whole), step, self.weight(f"{name}.scale", scales), middle
        return self.add("Mul", self.add("MatMulIntegerToFloat", steps, *parts, domain=FUSED), largest)

    def look_up(self, name: str, table: Tensor, rows: str) -> str:
        """Add rows of a table [rows, D]: in int8 with a scale for each row."""
        self.matrices.append(name)
        if name not in self.int8:
            return self.add("Gather", self.weight(name, table), rows)
        whole, scales = quantize(as_array(table), axis=1, levels=LEVELS)
        found = self.add("Cast", self.add("Gather", self.weight(name, whole), rows), to=TensorProto.FLOAT)
        return self.add("Mul", found, self.add("Gather", self.weight(f"{name}.scale", scales[:, None]), rows))


def as_array(values: Tensor | np.ndarray) -> np.ndarray:
    return values.detach().float().cpu().numpy() if isinstance(values, Tensor) else values


def quantize(values: np.ndarray, *, axis: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 values and the float32 scales [all but `axis`] that give them back: v ~ scale * round(v / scale).

    `levels` is the largest whole number used: 127, or 63 where the processor adds up two products in 16 bits.
    """
    scales = np.maximum(np.abs(values).max(axis=axis), 1e-12) / levels
    whole = np.rint(values / np.expand_dims(scales, axis)).astype(np.int8)
    return whole, scales.astype(np.float32)


def build_graph(encoder: TorchEncoder, int8: Container[str] = (), *, levels: int = LEVELS) -> onnx.ModelProto:
    """Return an encoder as an ONNX model, float32 but for the matrices named in `int8`.

    Raises InputError: a module behind the transformer, a pooling or an activation that has no ONNX form here; more
    weights than the format's 2 GB.
    """
    held = sum(parameter.numel() for parameter in encoder.model.parameters())
    if 4 * held > LIMIT:
        raise InputError(f"export: {held:,} parameters in float32 are over the 2 GB that an ONNX file can hold")
    return write_graph(Graph(int8, levels=levels), encoder)


def list_matrices(encoder: TorchEncoder) -> list[str]:
    """Return the names of all matrices that can be int8, word embeddings first, then layer by layer."""
    graph = Graph()
    write_graph(graph, encoder)
    return graph.matrices


def write_graph(graph: Graph, encoder: TorchEncoder) -> onnx.ModelProto:
    hidden = embed_pieces(graph, encoder)
    heads = count_heads(encoder.transformer)
    for number, layer in enumerate(find_layers(encoder.transformer)):
        hidden = run_layer(graph, encoder, layer, number, heads[number], hidden)
    tokens = graph.add("Identity", hidden, outputs=["last_hidden_state"])
    sentence = read_out(graph, encoder, tokens)
    graph.add("Identity", sentence, outputs=["sentence_embedding"])
    sizes: dict[str, list[str | int | None]] = {
        "sentence_embedding": ["B", encoder.dimension],
        "last_hidden_state": ["B", "T", encoder.transformer.config.hidden_size],
    }
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "secateur",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in INPUTS],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in sizes.items()],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, FUSED_OPSET)],
        producer_name="secateur",
        ir_version=IR,
    )
    onnx.checker.check_model(model)
    return model


def embed_pieces(graph: Graph, encoder: TorchEncoder) -> str:
    """Write the embeddings: tokens, positions (which begin behind the padding's in the RoBERTa family), LayerNorm."""
    transformer = encoder.transformer
    weights = transformer.state_dict()
    words = transformer.get_input_embeddings()
    found = graph.look_up("words", cast(Tensor, words.weight), "input_ids")
    if isinstance(words, LowRankEmbedding):
        found = graph.multiply(found, "words.widen", words.widen.weight.T)
    positions = weights["embeddings.position_embeddings.weight"]
    types = weights.get("embeddings.token_type_embeddings.weight")
    positions = positions if types is None else positions + types[0]  # every token is of type 0
    table = graph.weight("positions", positions)
    if stock_type(transformer.config) in ("roberta", "xlm-roberta", "camembert"):
        padding = graph.weight("padding", np.array(transformer.config.pad_token_id, np.int64))
        real = graph.add("Cast", graph.add("Not", graph.add("Equal", "input_ids", padding)), to=TensorProto.INT64)
        counted = graph.add("CumSum", real, graph.weight("axis", np.array(1, np.int64)))
        places = graph.add("Add", graph.add("Mul", counted, real), padding)
    else:
        shape = graph.add("Shape", "input_ids", start=1, end=2)
        length = graph.add("Squeeze", shape)
        zero, one = (graph.weight(f"range.{value}", np.array(value, np.int64)) for value in (0, 1))
        places = graph.add("Range", zero, length, one)
    norm = transformer.get_submodule("embeddings.LayerNorm")
    return scale_to_unit_length(
        graph, graph.add("Add", found, graph.add("Gather", table, places)), cast(nn.LayerNorm, norm), "words"
    )


def scale_to_unit_length(graph: Graph, values: str, norm: nn.LayerNorm, name: str) -> str:
    gain, bias = graph.weight(f"{name}.gain", norm.weight), graph.weight(f"{name}.norm_bias", norm.bias)
    return graph.add("LayerNormalization", values, gain, bias, axis=-1, epsilon=norm.eps)


def run_layer(graph: Graph, encoder: TorchEncoder, layer: nn.Module, number: int, heads: int, hidden: str) -> str:
    """Write one layer: attention and FFN, each added to what it read and normalised."""
    names = layer_names(encoder.transformer.config)
    where = f"layer.{number}"
    output, contract = find_linear(layer, names.attention_output), find_linear(layer, names.contract)
    attended = None
    if heads:
        attended = attend(graph, encoder, layer, where, heads, hidden)
        attended = graph.multiply(attended, f"{where}.attention.output", output.weight.T)
    norm = cast(nn.LayerNorm, layer.get_submodule(names.attention_norm))
    hidden = add_and_normalise(graph, hidden, attended, output.bias, norm, f"{where}.attention")
    expand = find_linear(layer, names.expand)
    written = None
    if expand.out_features:
        written = graph.multiply(hidden, f"{where}.expand", expand.weight.T)
        written = activate(graph, written, expand.bias, activation_name(encoder), where)
        written = graph.multiply(written, f"{where}.contract", contract.weight.T)
    norm = cast(nn.LayerNorm, layer.get_submodule(names.output_norm))
    return add_and_normalise(graph, hidden, written, contract.bias, norm, f"{where}.ffn")


def attend(graph: Graph, encoder: TorchEncoder, layer: nn.Module, where: str, heads: int, hidden: str) -> str:
    """Write the heads' contexts [B, T, heads * head size]: one matrix for query, key and value, fused attention."""
    names = layer_names(encoder.transformer.config)
    linears = [find_linear(layer, path) for path in (names.query, names.key, names.value)]
    packed = np.concatenate([as_array(linear.weight) for linear in linears]).T  # [H, 3C]
    bias = np.concatenate([as_array(linear.bias) for linear in linears])
    width = heads * head_size(encoder.transformer.config)
    read = graph.multiply(hidden, f"{where}.attention.packed", packed)
    parts = [f"{where}.{part}" for part in ("query", "key", "value")]
    graph.add("Split", read, graph.weight(f"{where}.split", np.array([width] * 3, np.int64)), outputs=parts, axis=-1)
    biases = graph.weight(f"{where}.attention.packed_bias", bias)
    return graph.add("MultiHeadAttention", *parts, biases, graph.mask, domain=FUSED, num_heads=heads)


def add_and_normalise(
    graph: Graph, hidden: str, change: str | None, bias: Tensor, norm: nn.LayerNorm, name: str
) -> str:
    """Write norm(hidden + change + bias); of a half layer without heads or neurons the bias is all there is.

    ONNX Runtime's fused operator for it, SkipLayerNormalization, takes four to eight times as long on a CPU as these
    nodes: LayerNormalization alone has a vectorised kernel (of 1.31). The bias comes last, as a LayerNormalization
    right behind the sum of two states would be fused.
    """
    total = hidden if change is None else graph.add("Add", change, hidden)
    return scale_to_unit_length(graph, graph.add("Add", total, graph.weight(f"{name}.bias", bias)), norm, name)


def activation_name(encoder: TorchEncoder) -> str:
    shape = encoder.transformer.config
    return str(shape.activation if stock_type(shape) == "distilbert" else shape.hidden_act)


def activate(graph: Graph, values: str, bias: Tensor, name: str, where: str) -> str:
    added = graph.weight(f"{where}.expand.bias", bias)
    if name == "gelu":
        return graph.add("BiasGelu", values, added, domain=FUSED)
    if name in ("gelu_new", "gelu_pytorch_tanh"):
        return graph.add("FastGelu", values, added, domain=FUSED)
    if name == "relu":
        return graph.add("Relu", graph.add("Add", values, added))
    raise InputError(f"export: the activation {name} has no ONNX form here")


def read_out(graph: Graph, encoder: TorchEncoder, tokens: str) -> str:
    """Write pooling and what follows it, and scale to unit length."""
    modules = list(encoder.model)[1:]
    if encoder.prompt_length:
        raise InputError("export: a pooling that leaves the prompt's tokens out (include_prompt) has no ONNX form here")
    if encoder.uses_pooler:
        pooler = cast(nn.Linear, encoder.transformer.get_submodule("pooler.dense"))
        sentence = graph.add("Tanh", project(graph, first_token(graph, tokens), pooler, "pooler"))
    elif isinstance(modules[0], Pooling):
        sentence = pool(graph, tokens, cast(Pooling, modules.pop(0)))
    else:
        raise InputError(f"export: a {type(modules[0]).__name__} behind the transformer has no ONNX form here")
    for number, module in enumerate(modules):
        if isinstance(module, Dense):
            sentence = project(graph, sentence, module.linear, f"dense.{number}")
            kind = type(module.activation_function).__name__
            if kind not in DENSE_ACTIVATIONS:
                raise InputError(f"export: a Dense with the activation {kind} has no ONNX form here")
            sentence = graph.add(DENSE_ACTIVATIONS[kind], sentence) if DENSE_ACTIVATIONS[kind] else sentence
        elif not isinstance(module, Normalize):
            raise InputError(f"export: a {type(module).__name__} behind the pooling has no ONNX form here")
    return graph.add("LpNormalization", sentence, axis=-1, p=2)


def pool(graph: Graph, tokens: str, pooling: Pooling) -> str:
    """Write the mean of the tokens that the mask shows, zeros where it shows none, or the first of them."""
    if pooling.pooling_mode == "cls":
        first = graph.add("ArgMax", graph.mask, axis=1, keepdims=1)  # [B, 1]; 0 where the mask shows no token
        return graph.add("GatherND", tokens, first, batch_dims=1)
    if pooling.pooling_mode != "mean":
        raise InputError(f"export: pooling {pooling.pooling_mode} has no ONNX form here")
    last, middle = (graph.weight(name, np.array([axis], np.int64)) for name, axis in (("last", -1), ("middle", 1)))
    mask = graph.add("Unsqueeze", graph.add("Cast", "attention_mask", to=TensorProto.FLOAT), last)  # [B, T, 1]
    total = graph.add("ReduceSum", graph.add("Mul", tokens, mask), middle, keepdims=0)
    count = graph.add("ReduceSum", mask, middle, keepdims=0)
    return graph.add("Div", total, graph.add("Max", count, graph.number("one", np.float32(1))))


def first_token(graph: Graph, tokens: str) -> str:
    return graph.add("Gather", tokens, graph.weight("first", np.array(0, np.int64)), axis=1)


def project(graph: Graph, values: str, linear: nn.Linear, name: str) -> str:
    """Write values W^T + b."""
    product = graph.multiply(values, name, linear.weight.T)
    return product if linear.bias is None else graph.add("Add", product, graph.weight(f"{name}.bias", linear.bias))
