"""What options may be chosen from. The light core reads these too: no pydantic here."""

from typing import Literal, get_args

Device = Literal["auto", "cpu", "cuda", "mps"]  # auto: a GPU where torch sees one
DEVICES: tuple[Device, ...] = get_args(Device)
Precision = Literal["auto", "float32", "bf16"]  # auto: bf16 where the processor computes in it, else float32
Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
Pooling = Literal["auto", "pooler", "cls", "mean"]  # auto: what the folder's modules say
Prompts = Literal["keep", "fold", "token"]  # what becomes of a teacher's prompts in its student
Criterion = Literal["similarity", "output", "both", "taylor_weight", "magnitude", "random"]
Runtime = Literal["torch", "onnx", "onnx-int8", "openvino", "openvino-int8"]  # what runs an encoder
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
Task = Literal["STS", "PI", "NLI", "SA", "TI", "IA", "IC", "ICX", "NE1", "NE2"]  # encodechka's
TASKS: tuple[Task, ...] = get_args(Task)

MOST = 2**31 - 1  # of a count: what every library takes
MOST_THREADS = 4_096  # more than any machine has cores
