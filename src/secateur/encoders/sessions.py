"""An ONNX file -> what runs batches through it, from any number of threads: by ONNX Runtime, or by OpenVINO."""

from collections.abc import Callable
from pathlib import Path
from threading import local

import numpy as np

from secateur.config.errors import InputError, require, say_error
from secateur.encoders.machine import count_cores

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]  # input_ids, attention_mask int64 [B, T] -> vectors [B, D]


def open_file(
    path: Path | bytes, threads: int | None, device: str = "cpu", *, backend: str = "onnx"
) -> tuple[Run, int]:
    """Return what runs a batch through an ONNX file (or its content), and the dimension of its sentence vectors.

    By ONNX Runtime, or by OpenVINO, on the CPU, where the backend is one of its own.
    """
    if backend.startswith("openvino"):
        return open_openvino(path, threads)
    require("onnxruntime", extra="train", by="backend")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or count_cores()
    options.enable_mem_pattern = False  # it plans memory for one shape, and every batch has another
    options.log_severity_level = 3
    there = onnxruntime.get_available_providers()
    cuda = device == "cuda" or (device == "auto" and "CUDAExecutionProvider" in there)
    if cuda and "CUDAExecutionProvider" not in there:
        raise InputError("device: cuda asked for, but this onnxruntime has no CUDA")
    wanted = ["CUDAExecutionProvider"] if cuda else []
    source, path = (path, Path("graph")) if isinstance(path, bytes) else (str(path), path)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[*wanted, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        raise InputError(f"{path}: cannot be read as ONNX: {say_error(error)}") from error
    outputs = {each.name: each.shape for each in session.get_outputs()}
    if "sentence_embedding" not in outputs:
        raise InputError(f"{path}: has no output sentence_embedding; `secateur export` writes one that has")

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        vectors: np.ndarray = session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})[0]
        return vectors

    return run, int(outputs["sentence_embedding"][-1])


def open_openvino(path: Path | bytes, threads: int | None) -> tuple[Run, int]:
    """Return what runs a batch through an ONNX file (or its content) by OpenVINO on the CPU, and the dimension."""
    require("openvino", extra="openvino", by="backend")
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads or count_cores(), "INFERENCE_PRECISION_HINT": "f32"}
    source, path = (path, Path("graph")) if isinstance(path, bytes) else (str(path), path)
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(source), "CPU", settings)
        dimension = int(compiled.output("sentence_embedding").get_partial_shape()[-1].get_length())
    except RuntimeError as error:
        raise InputError(f"{path}: OpenVINO cannot run it: {say_error(error)}") from error
    own = local()  # a request holds the inputs and outputs of one call, so each thread has its own

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        vectors: np.ndarray = own.request.infer({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
        return vectors

    return run, dimension
