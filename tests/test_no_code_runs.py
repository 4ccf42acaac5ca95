"""Model folders that try to run code of their own: loaded or refused in one line, but nothing of them runs."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeEncoder
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from secateur import Encoder
from secateur.cli import main
from secateur.config.errors import InputError
from secateur.config.teacher import TeacherSettings
from secateur.encoders.loading import load_encoder
from secateur.encoders.saving import save_encoder
from secateur.pruning.slicing import slice_encoder

RAN = "ran"  # the file that code of a folder would write
EVIL = """
import pathlib
pathlib.Path({marker!r}).write_text("ran")
class Thing:
    def __init__(self, *args, **words): pathlib.Path({marker!r}).write_text("ran")
    @classmethod
    def from_pretrained(cls, *args, **words): return cls()
    @classmethod
    def load(cls, *args, **words): return cls()
"""


class Pickled:
    """Writes the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def folder(tmp_path: Path, make_encoder: MakeEncoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder, where `import evil` would find what writes the marker beside it."""
    save_encoder(make_encoder(layers=1), tmp_path / "model")
    for name in ("evil.py", "modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "sitecustomize.py"):
        (tmp_path / "model" / name).write_text(EVIL.format(marker=str(tmp_path / RAN)))
    monkeypatch.syspath_prepend(str(tmp_path / "model"))  # as in a notebook that was opened in it
    monkeypatch.chdir(tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    data = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**data, **values}))


def map_classes(folder: Path, *, prefix: str = "") -> None:
    auto = ("AutoConfig", "AutoModel", "AutoModelForMaskedLM", "AutoTokenizer", "AutoProcessor")
    change(folder, "config.json", auto_map=dict.fromkeys(auto, f"{prefix}modeling_evil.Thing"))


def map_classes_of_an_unknown_type(folder: Path) -> None:
    map_classes(folder)
    change(folder, "config.json", model_type="evil", architectures=["Thing"])


def map_classes_and_trust(folder: Path) -> None:
    map_classes(folder)
    change(folder, "config.json", trust_remote_code=True)
    trust = {"trust_remote_code": True}
    keys = ("model_args", "config_args", "tokenizer_args", "model_kwargs", "config_kwargs", "processor_kwargs")
    change(folder, "sentence_bert_config.json", trust_remote_code=True, **dict.fromkeys(keys, trust))


def map_tokenizer(folder: Path) -> None:
    classes = ["tokenization_evil.Thing", "tokenization_evil.Thing"]
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": classes}, tokenizer_class="Thing")


def map_to_a_repository(folder: Path) -> None:
    map_classes(folder, prefix="evil/repository--")


def name_module(kind: str) -> Callable[[Path], None]:
    def name(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        modules[-1]["type"] = kind
        (folder / "modules.json").write_text(json.dumps(modules))

    return name


def name_first_module(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "evil.Thing"
    (folder / "modules.json").write_text(json.dumps(modules))


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Pickled(folder.parent / RAN)))


def pickle_weights_as_torch_does(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings": Pickled(folder.parent / RAN)}, folder / "pytorch_model.bin")


def pickle_beside(folder: Path) -> None:
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pt", "model.safetensors.pkl"):
        (folder / name).write_bytes(pickle.dumps(Pickled(folder.parent / RAN)))


def add_dense(folder: Path, activation: str = "torch.nn.modules.linear.Identity") -> Path:
    """Put a Dense behind the pooling, as stock code would save it."""
    model = SentenceTransformer(str(folder), device="cpu")
    width = model.get_embedding_dimension()
    SentenceTransformer(modules=[*model, Dense(width, width)], device="cpu").save_pretrained(str(folder))
    (dense,) = folder.glob("*_Dense")
    change(dense, "config.json", activation_function=activation)
    return dense


def pickle_dense(folder: Path) -> None:
    dense = add_dense(folder)
    (dense / "model.safetensors").unlink()
    torch.save({"linear.weight": Pickled(folder.parent / RAN)}, dense / "pytorch_model.bin")


def name_activation(folder: Path) -> None:
    add_dense(folder, "evil.Thing")


def name_attention(folder: Path) -> None:
    for key in ("_attn_implementation", "attn_implementation"):
        change(folder, "config.json", **{key: "evil/kernel"})


def add_adapter(folder: Path) -> None:
    change(folder, "adapter_config.json", base_model_name_or_path="evil/base", peft_type="LORA", auto_mapping=None)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Pickled(folder.parent / RAN)))


def add_templates(folder: Path) -> None:
    code = f"{{% set x = cycler.__init__.__globals__.os.mkdir('{folder.parent / RAN}') %}}"
    (folder / "chat_template.jinja").write_text(code)
    change(folder, "tokenizer_config.json", chat_template=code)
    change(folder, "config_sentence_transformers.json", prompts={"query": code}, default_prompt_name="query")


def name_similarity(folder: Path) -> None:
    change(folder, "config_sentence_transformers.json", similarity_fn_name="evil.Thing", model_type="evil.Thing")


def map_config_of_modules(folder: Path) -> None:
    change(folder / "1_Pooling", "config.json", auto_map={"Pooling": "evil.Thing"}, pooling_mode="evil.Thing")


def quantize(folder: Path) -> None:
    change(
        folder, "config.json", quantization_config={"quant_method": "evil", "modules_to_not_convert": ["evil.Thing"]}
    )


ATTEMPTS = (
    map_classes, map_classes_of_an_unknown_type, map_classes_and_trust, map_tokenizer, map_to_a_repository,
    name_module("evil.Thing"), name_module("os.getcwd"), name_module("sentence_transformers.evil.Thing"),
    name_first_module, pickle_weights, pickle_weights_as_torch_does, pickle_beside, pickle_dense, name_activation,
    name_attention, add_adapter, add_templates, name_similarity, map_config_of_modules, quantize,
)  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.__name__)
def test_nothing_of_a_model_folder_runs(folder: Path, attempt: Callable[[Path], None]) -> None:
    attempt(folder)
    assert not (folder.parent / RAN).exists(), "the test itself ran it"
    for load in (lambda: load_encoder(TeacherSettings(model=str(folder))), lambda: Encoder(folder).encode(["one"])):
        with suppress(InputError):
            load()
        assert not (folder.parent / RAN).exists()


def test_a_changed_modeling_file_of_a_student_is_not_run(
    tmp_path: Path, make_encoder: MakeEncoder, ragged: Any
) -> None:
    student = slice_encoder(make_encoder(), ragged)
    save_encoder(student, tmp_path / "student")
    path = tmp_path / "student" / "modeling.py"
    path.write_text(EVIL.format(marker=str(tmp_path / RAN)) + path.read_text())
    load_encoder(TeacherSettings(model=str(tmp_path / "student")))
    Encoder(tmp_path / "student").encode(["one"])
    assert not (tmp_path / RAN).exists()


def map_model_alone(folder: Path) -> None:
    map_beside(folder, "AutoModel")


def map_config_alone(folder: Path) -> None:
    map_beside(folder, "AutoConfig")


def map_beside(folder: Path, name: str) -> None:
    known = json.loads((folder / "config.json").read_text())["auto_map"]
    change(folder, "config.json", auto_map={**known, name: "modeling_evil.Thing"})


def map_fast_tokenizer(folder: Path) -> None:
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "tokenization_evil.Thing"]})


CHECKED = (map_classes, map_to_a_repository, map_model_alone, map_config_alone, map_fast_tokenizer, map_tokenizer)


@pytest.mark.parametrize("attempt", CHECKED, ids=lambda attempt: attempt.__name__)
def test_check_runs_no_code(
    folder: Path, make_encoder: MakeEncoder, ragged: Any, attempt: Callable[[Path], None]
) -> None:
    """It loads a student by the modeling.py in its folder if that is secateur's own; nothing else there runs."""
    evil = {path.name: path.read_text() for path in folder.glob("*.py")}
    save_encoder(slice_encoder(make_encoder(), ragged), folder)
    for name, text in evil.items():
        (folder / name).write_text(text)
    attempt(folder)
    main(["check", str(folder)])
    assert not (folder.parent / RAN).exists()


def test_a_pickled_array_among_vectors_is_not_read(tmp_path: Path) -> None:
    import numpy as np

    from secateur.distillation.vector_files import load_vectors

    np.save(tmp_path / "v.npy", np.array([Pickled(tmp_path / RAN)], dtype=object), allow_pickle=True)
    (tmp_path / "s.txt").write_text("one\n")
    with pytest.raises(InputError):
        load_vectors(tmp_path / "v.npy", tmp_path / "s.txt")
    assert not (tmp_path / RAN).exists()


def test_a_process_of_ours_imports_nothing_of_the_current_folder(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`cost` measures memory in a process of its own, which must not take the folder's numpy.py for NumPy."""
    for name in ("numpy.py", "torch.py", "json.py", "secateur.py"):
        shutil.copyfile(folder / "evil.py", folder / name)
    code = "import sys; sys.path = [each for each in sys.path if each]; from secateur.cli import main; sys.exit(main())"
    words = ["cost", ".", "--length", "4", "--repeats", "1", "--warmup", "0", "--threads", "1"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(each for each in sys.path if each and each != str(folder)),
    }
    done = subprocess.run([sys.executable, "-P", "-c", code, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (folder.parent / RAN).exists()
