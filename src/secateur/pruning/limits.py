"""What a budget lets a student cost, and whether a student that was cut costs no more: counted and weighed."""

import json
from collections.abc import Mapping

from torch import Tensor

from secateur.config.errors import QualityError, require
from secateur.config.pruning import BudgetSettings
from secateur.encoders.cost import count_parameters
from secateur.encoders.encoder import TorchEncoder
from secateur.pruning.predictions import Limits
from secateur.pruning.sizes import count_bytes_each

MARGIN = 0.08  # of a limit in milliseconds that is left free for the clock's scatter
TAGS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # what safetensors calls number formats


def set_limits(budget: BudgetSettings, teacher: TorchEncoder) -> Limits:
    """Return what a budget lets a student of this teacher cost."""
    share = None if budget.share is None else int(budget.share * count_parameters(teacher))
    params = min((count for count in (share, budget.params) if count is not None), default=None)
    return Limits(params, budget.mb, budget.ms, free=MARGIN)


def check_limits(student: TorchEncoder, limits: Limits, runtime: str) -> None:
    """Raise QualityError if a student has more parameters, or its file more megabytes, than its limits allow.

    The file is the one that was asked for: the weights as they are saved, or the ONNX file of a `runtime`.
    """
    params = count_parameters(student)
    if limits.params is not None and params > limits.params:
        raise QualityError(f"the student has {params:,} parameters, {limits.params:,} were allowed: it is not kept")
    if limits.mb is not None:
        mb = weigh(student, runtime) / 1e6
        if mb > limits.mb:
            raise QualityError(f"the student takes {mb:.3f} MB, {limits.mb:g} MB were allowed: it is not kept")


def weigh(encoder: TorchEncoder, runtime: str) -> int:
    """Return the bytes of the file that a runtime reads: the safetensors as `save_encoder` writes them, or the ONNX
    file, whose matrices are all in int8 where the runtime's name says so."""
    if runtime == "torch":
        return weigh_weights(encoder)
    require("onnx", extra="train", by=f"budget.runtime: {runtime}")
    from secateur.encoders.onnx_graph import build_graph, list_matrices

    matrices = list_matrices(encoder) if runtime.endswith("int8") else []
    return len(build_graph(encoder, matrices).SerializeToString())


def weigh_weights(encoder: TorchEncoder) -> int:
    """Return the bytes of all safetensors files in the folder that an encoder is saved in."""
    files = [encoder.transformer.state_dict(), *(module.state_dict() for module in list(encoder.model)[1:])]
    return sum(weigh_tensors(tensors, encoder.dtype) for tensors in files if tensors)


def weigh_tensors(tensors: Mapping[str, Tensor], dtype: str) -> int:
    """Return the bytes of a safetensors file: eight for the header's length, the header as JSON, filled up to a
    multiple of eight, and the numbers."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    each = count_bytes_each(dtype)
    end = 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + each * tensor.numel()
        header[name] = {"dtype": TAGS[dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":")).encode())
    return 8 + -(-length // 8) * 8 + end
