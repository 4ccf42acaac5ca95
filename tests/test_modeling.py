"""Saved students: what a pruned folder holds, and that it reloads bit-equal, with secateur or without it."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, ROOT, SENTENCES, MakeEncoder, keep_all
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import AutoModel, ElectraConfig

from secateur.config.teacher import TeacherSettings
from secateur.encoders.encoder import TorchEncoder, embed, encode, pad, tokenize
from secateur.encoders.loading import load_encoder
from secateur.encoders.modeling import count_heads, count_neurons, stock_type
from secateur.encoders.saving import save_encoder
from secateur.encoders.surgery import resize_config
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder

PLAIN = {"attn_implementation": "eager"}  # what secateur computes with on CPUs; bits are equal within one kernel

WITHOUT_SECATEUR = """
import sys
sys.modules["secateur"] = None
from pathlib import Path
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

folder, texts, out = sys.argv[1], Path(sys.argv[2]).read_text(encoding="utf-8").splitlines(), sys.argv[3]
plain = {"attn_implementation": "eager"}
sentence = SentenceTransformer(folder, device="cpu", trust_remote_code=True, model_kwargs=plain)
weights = AutoModel.from_pretrained(folder, trust_remote_code=True).state_dict()
save_file({"vectors": sentence.encode(texts, convert_to_tensor=True), **weights}, out)
"""

AFTER_IMPORT = """
import sys
import secateur
loaded = [name for name in ("torch", "transformers", "sentence_transformers", "numpy") if name in sys.modules]
assert not loaded, loaded
from transformers import AutoModel
from safetensors.torch import save_file
save_file(AutoModel.from_pretrained(sys.argv[1]).state_dict(), sys.argv[2])
"""


def run_python(code: str, *arguments: str | Path, cwd: Path, path: str = "") -> None:
    """Run `code` in a fresh interpreter, away from the repository."""
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(cwd / "modules")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    run = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def weights_of(encoder: TorchEncoder) -> dict[str, Tensor]:
    return encoder.transformer.state_dict()


def assert_same_weights(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_folder_reloads_bit_equal_in_stock_classes(
    make_encoder: MakeEncoder, ragged: Kept, sentences: list[str], tmp_path: Path, family: str
) -> None:
    student = slice_encoder(make_encoder(family), ragged)
    save_encoder(student, tmp_path / "student")
    assert count_heads(student.transformer) == [2, 0, 3]
    assert count_neurons(student.transformer) == [16, 5, 0]

    stock = AutoModel.from_pretrained(tmp_path / "student")
    assert stock.config.model_type == f"pruned-{family}"
    assert_same_weights(stock.state_dict(), weights_of(student))

    sentence = SentenceTransformer(str(tmp_path / "student"), device="cpu", model_kwargs=PLAIN)
    assert_same_weights(sentence[0].model.state_dict(), weights_of(student))
    expected = student.model.encode(sentences)
    assert np.array_equal(sentence.encode(sentences), expected)

    reloaded = load_encoder(TeacherSettings(model=str(tmp_path / "student"), max_length=64))
    assert np.array_equal(embed(reloaded, sentences), embed(student, sentences))
    np.testing.assert_allclose(embed(student, sentences), expected, atol=1e-5)


def test_ragged_folder_reloads_bit_equal_without_secateur(
    teacher: TorchEncoder, ragged: Kept, sentences: list[str], tmp_path: Path
) -> None:
    student = slice_encoder(teacher, ragged)
    save_encoder(student, tmp_path / "student")
    texts = tmp_path / "texts"
    texts.write_text("\n".join(sentences), encoding="utf-8")
    run_python(WITHOUT_SECATEUR, tmp_path / "student", texts, tmp_path / "out", cwd=tmp_path)
    out = load_file(tmp_path / "out")
    vectors = out.pop("vectors")
    assert_same_weights(out, weights_of(student))
    torch.testing.assert_close(vectors, student.model.encode(sentences, convert_to_tensor=True), rtol=0, atol=1e-7)


def test_importing_secateur_loads_nothing_heavy_and_registers_the_pruned_types(
    teacher: TorchEncoder, ragged: Kept, tmp_path: Path
) -> None:
    student = slice_encoder(teacher, ragged)
    save_encoder(student, tmp_path / "student")
    run_python(AFTER_IMPORT, tmp_path / "student", tmp_path / "out", cwd=tmp_path, path=str(ROOT / "src"))
    assert_same_weights(load_file(tmp_path / "out"), weights_of(student))


def test_saved_folder_holds_safetensors_and_no_pickle(teacher: TorchEncoder, ragged: Kept, tmp_path: Path) -> None:
    save_encoder(slice_encoder(teacher, ragged), tmp_path / "student", card="# A card\n")
    files = {path.name for path in (tmp_path / "student").rglob("*") if path.is_file()}
    assert {"model.safetensors", "modeling.py", "modules.json", "tokenizer.json", "README.md"} <= files
    assert not [name for name in files if Path(name).suffix in {".bin", ".pt", ".pth", ".pkl", ".pickle"}]


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_and_sdpa_attention_agree_on_a_ragged_model(
    make_encoder: MakeEncoder, ragged: Kept, sentences: list[str], family: str
) -> None:
    student = slice_encoder(make_encoder(family), ragged)
    student.transformer.set_attn_implementation("sdpa")
    expected = embed(student, sentences)
    student.transformer.set_attn_implementation("eager")
    np.testing.assert_allclose(embed(student, sentences), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_without_heads_stays_out_of_fused_attention(
    make_encoder: MakeEncoder, ragged: Kept, sentences: list[str], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    attend, heads = torch.nn.functional.scaled_dot_product_attention, []

    def watch(query: Tensor, *others: Any, **named: Any) -> Tensor:
        heads.append(query.shape[1])
        return attend(query, *others, **named)

    student = slice_encoder(make_encoder(family), ragged)
    student.transformer.set_attn_implementation("sdpa")
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    embed(deepcopy(student), sentences)
    assert set(heads) == {count for count in count_heads(student.transformer) if count}
    assert 0 in count_heads(student.transformer)


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_cut_alike_everywhere_are_saved_as_the_stock_type(
    make_encoder: MakeEncoder, sentences: list[str], tmp_path: Path, family: str
) -> None:
    teacher = make_encoder(family)
    kept = Kept(heads=keep_all(teacher).heads, neurons=((0, 1, 5), (2, 3, 4), (10, 20, 47)))
    student = slice_encoder(teacher, kept)
    save_encoder(student, tmp_path / "student")
    saved = json.loads((tmp_path / "student" / "config.json").read_text(encoding="utf-8"))
    assert saved["model_type"] == family
    assert "auto_map" not in saved
    assert not (tmp_path / "student" / "modeling.py").exists()
    sentence = SentenceTransformer(str(tmp_path / "student"), device="cpu", model_kwargs=PLAIN)
    assert_same_weights(sentence[0].model.state_dict(), weights_of(student))
    assert np.array_equal(sentence.encode(sentences), student.model.encode(sentences))


def test_an_unused_pooler_is_neither_kept_nor_saved_nor_made_anew(
    teacher: TorchEncoder, ragged: Kept, tmp_path: Path
) -> None:
    uniform = Kept(heads=keep_all(teacher).heads, neurons=((0, 1),) * 3)
    for kept in (ragged, uniform):
        save_encoder(slice_encoder(teacher, kept), tmp_path / "student")
        assert not [name for name in load_file(tmp_path / "student" / "model.safetensors") if "pooler" in name]
        sentence = SentenceTransformer(str(tmp_path / "student"), device="cpu", model_kwargs=PLAIN)
        assert not [name for name in sentence[0].model.state_dict() if "pooler" in name]
    save_encoder(slice_encoder(teacher, ragged), tmp_path / "student")
    assert AutoModel.from_pretrained(tmp_path / "student").pooler is None


def test_a_pooler_dropped_after_the_cut_is_not_made_anew(
    make_encoder: MakeEncoder, ragged: Kept, tmp_path: Path
) -> None:
    save_encoder(slice_encoder(make_encoder(pooling="pooler"), ragged), tmp_path / "student")
    by_mean = load_encoder(TeacherSettings(model=str(tmp_path / "student"), pooling="mean", max_length=64))
    save_encoder(by_mean, tmp_path / "by-mean")
    assert AutoModel.from_pretrained(tmp_path / "by-mean").pooler is None


def test_a_used_pooler_is_saved_with_a_ragged_model(
    make_encoder: MakeEncoder, ragged: Kept, sentences: list[str], tmp_path: Path
) -> None:
    student = slice_encoder(make_encoder(pooling="pooler"), ragged)
    save_encoder(student, tmp_path / "student")
    reloaded = load_encoder(TeacherSettings(model=str(tmp_path / "student"), max_length=64))
    assert reloaded.uses_pooler
    assert np.array_equal(embed(reloaded, sentences), embed(student, sentences))


def test_a_ragged_model_trains_every_weight(teacher: TorchEncoder, ragged: Kept, sentences: list[str]) -> None:
    student = slice_encoder(teacher, ragged)
    encode(student, pad(student, tokenize(student, sentences[:4]))).vectors[:, 0].sum().backward()
    used = [parameter for parameter in student.transformer.parameters() if parameter.numel()]
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in used)


def test_resize_config_turns_a_pruned_config_back_into_the_stock_one(teacher: TorchEncoder, ragged: Kept) -> None:
    pruned = slice_encoder(teacher, ragged).transformer.config
    stock = resize_config(pruned, [4, 4, 4], [7, 7, 7], has_pooler=False)
    assert stock.model_type == "bert"
    assert stock.intermediate_size == 7
    assert not hasattr(stock, "heads_per_layer")


def test_stock_type_names_the_supported_types() -> None:
    with pytest.raises(ValueError, match="'electra' is not supported; supported are bert, camembert, distilbert"):
        stock_type(ElectraConfig())


OLD_FOLDER = ROOT / "tests" / "folders" / "pruned-0.1.0"  # saved when secateur was one folder of flat modules


def test_a_folder_saved_before_the_rooms_still_loads_here_and_alone(tmp_path: Path) -> None:
    sentences = [side for column in zip(*SENTENCES[:3], strict=True) for side in column]
    expected = np.load(OLD_FOLDER.parent / "expected.npy")
    loaded = load_encoder(TeacherSettings(model=str(OLD_FOLDER)))
    assert count_heads(loaded.transformer) == [1, 0]
    assert count_neurons(loaded.transformer) == [3, 5]
    np.testing.assert_allclose(embed(loaded, sentences), expected, atol=1e-6)
    stock = SentenceTransformer(str(OLD_FOLDER), device="cpu", model_kwargs=PLAIN)
    np.testing.assert_allclose(stock.encode(sentences, normalize_embeddings=True), expected, atol=1e-6)
    (tmp_path / "texts.txt").write_text("\n".join(sentences), encoding="utf-8")
    run_python(WITHOUT_SECATEUR, OLD_FOLDER, tmp_path / "texts.txt", tmp_path / "alone", cwd=tmp_path)
    alone = torch.nn.functional.normalize(load_file(tmp_path / "alone")["vectors"], dim=-1)
    np.testing.assert_allclose(alone.numpy(), expected, atol=1e-6)
