"""`secateur check`: a sound folder passes, and a folder made faulty on purpose is found out, fault by fault."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from conftest import ROOT
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from test_soundness import misfit_dense, set_keys, write_unigram
from transformers import AutoConfig, AutoModel, AutoTokenizer

from secateur.config.quality import QualitySettings
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.saving import save_encoder
from secateur.export.check import check_model
from secateur.export.export import export
from secateur.export.findings import Finding
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder

WEIGHT = "encoder.layer.1.output.dense.weight"


@pytest.fixture
def folder(make_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A sound sentence-transformers folder with a card."""
    transformer = Transformer(str(make_folder()))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").save(str(tmp_path / "model"))
    card = "---\nlicense: mit\nbase_model: somebody/teacher\n---\n# model\n"
    (tmp_path / "model" / "README.md").write_text(card, encoding="utf-8")
    return tmp_path / "model"


def flaws(findings: list[Finding], status: str = "fail") -> dict[str, str]:
    return {each.check: each.found for each in findings if each.status == status}


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


def test_a_sound_folder_passes_every_check(folder: Path) -> None:
    findings = check_model(folder)
    assert not flaws(findings)
    assert not flaws(findings, "warn")
    assert {"weights", "tokenizer", "length", "prompts", "pooling", "vectors, torch", "transformers", "card"} <= {
        each.check for each in findings
    }


@pytest.mark.parametrize("kind", ["electra", "mpnet"])
def test_a_sound_encoder_of_a_type_that_is_not_pruned_passes(folder: Path, tmp_path: Path, kind: str) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    rows = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    config = AutoConfig.for_model(kind, **sizes, embedding_size=32, vocab_size=rows, pad_token_id=0)
    bare = tmp_path / "bare"
    AutoModel.from_config(config).save_pretrained(bare)
    AutoTokenizer.from_pretrained(folder).save_pretrained(bare)
    transformer = Transformer(str(bare), max_seq_length=64)
    SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode="mean"), Normalize()]).save(str(tmp_path / kind))
    findings = check_model(tmp_path / kind)
    assert not flaws(findings)
    assert "model type" in flaws(findings, "warn")


def test_one_fault_is_one_failure(folder: Path) -> None:
    break_weight(folder)
    assert flaws(check_model(folder)).keys() == {"weights"}


def test_a_length_that_transformers_alone_cannot_keep_is_found(folder: Path) -> None:
    set_keys(folder / "tokenizer_config.json", model_max_length=500)
    assert "transformers alone" in flaws(check_model(folder))["length"]


def test_the_embedded_teacher_and_a_folder_of_an_earlier_version_pass() -> None:
    assert not flaws(check_model(ROOT / "models" / "teacher-mini-en-ru"))
    assert not flaws(check_model(ROOT / "tests" / "folders" / "pruned-0.1.0"))


def test_a_ragged_student_is_loaded_without_secateur_by_its_own_code_and_no_other(
    teacher: TorchEncoder, ragged: Kept, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    save_encoder(slice_encoder(teacher, ragged), student)
    findings = check_model(student)
    assert not flaws(findings)
    assert any(each.check == "without secateur" and each.status == "pass" for each in findings)
    marker = tmp_path / "ran"
    code = student / "modeling.py"
    code.write_text(f"open({str(marker)!r}, 'w')\n" + code.read_text(encoding="utf-8"), encoding="utf-8")
    assert "without secateur" in flaws(check_model(student), "warn")
    code.unlink()
    assert "model type" in flaws(check_model(student))
    assert not marker.exists()


def break_weight(folder: Path) -> None:
    change_weights(folder, lambda weights: weights[WEIGHT].fill_(float("nan")))


def lose_weight(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop(WEIGHT))


def lose_vector(folder: Path) -> None:
    name = "embeddings.word_embeddings.weight"
    change_weights(folder, lambda weights: weights.update({name: weights[name][:-1].contiguous()}))
    rows = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"] - 1
    set_keys(folder / "config.json", vocab_size=rows)


def lose_tokenizer_class(folder: Path) -> None:
    write_unigram(folder)
    set_keys(folder / "tokenizer_config.json", tokenizer_class=None)


def promise_positions(folder: Path) -> None:
    set_keys(folder / "tokenizer_config.json", model_max_length=500)
    set_keys(folder / "sentence_bert_config.json", max_seq_length=500)


def name_absent_prompt(folder: Path) -> None:
    set_keys(folder / "config_sentence_transformers.json", default_prompt_name="question")


def break_config(folder: Path) -> None:
    set_keys(folder / "config.json", hidden_size="wide")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a weight that is not finite": (break_weight, "weights"),
    "a weight that is in no file": (lose_weight, "weights"),
    "a token without a vector": (lose_vector, "tokenizer"),
    "a tokenizer without its class": (lose_tokenizer_class, "tokenizer"),
    "a length over the positions": (promise_positions, "length"),
    "a default prompt that is not there": (name_absent_prompt, "loading"),
    "modules that do not fit": (misfit_dense, "length"),
    "a broken config": (break_config, "loading"),
}


@pytest.mark.parametrize(("fault", "check"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found(folder: Path, fault: Callable[[Path], object], check: str) -> None:
    fault(folder)
    found = flaws(check_model(folder))
    assert check in found
    assert all("\n" not in text and len(text) < 500 for text in found.values())


def compute_in_half(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({name: each.half() for name, each in weights.items()}))
    set_keys(folder / "config.json", dtype="float16")


WARNINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shorter length": (lambda folder: set_keys(folder / "tokenizer_config.json", model_max_length=20), "length"),
    "prompts without a default": (
        lambda folder: set_keys(folder / "config_sentence_transformers.json", prompts={"query": "Q: "}), "prompts",
    ),
    "a number format of half": (compute_in_half, "number format"),
    "no modules": (lambda folder: (folder / "modules.json").unlink(), "pooling"),
    "no licence": (lambda folder: (folder / "README.md").write_text("# model\n", encoding="utf-8"), "card"),
    "a place on a machine": (
        lambda folder: set_keys(folder / "config.json", _name_or_path="/home/somebody/teacher"), "card",
    ),
    "code to run": (lambda folder: set_keys(folder / "config.json", auto_map={"AutoModel": "evil.M"}), "model type"),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "check"), WARNINGS.values(), ids=WARNINGS)
def test_what_is_worth_a_look_is_said(folder: Path, fault: Callable[[Path], object], check: str) -> None:
    fault(folder)
    assert check in flaws(check_model(folder), "warn")


def test_a_language_that_the_tokenizer_does_not_know_is_found(folder: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("the cat sleeps\tкошка спит\n", encoding="utf-8")
    assert "unknown tokens" not in flaws(check_model(folder, pairs=pairs))
    pairs.write_text("the cat sleeps\tγάτα κοιμάται 猫\n", encoding="utf-8")
    assert "in Russian are unknown" in flaws(check_model(folder, pairs=pairs))["unknown tokens"]


@pytest.fixture
def exported(folder: Path) -> Path:
    export(str(folder), QualitySettings(), int8=False)
    assert not flaws(check_model(folder))
    return folder


def test_an_export_is_checked_file_by_file(exported: Path) -> None:
    checks = {each.check for each in check_model(exported)}
    assert {"hashes", "vectors, onnx", "alone and in a batch, onnx", "first output, onnx", "odd masks, onnx"} <= checks


def test_weights_changed_after_an_export_are_found(exported: Path) -> None:
    change_weights(exported, lambda weights: weights[WEIGHT].mul_(1.5))
    assert "model.safetensors is not the file" in flaws(check_model(exported))["hashes"]


def rewrite(folder: Path, change: Callable[[Any], object]) -> None:
    """Change the graph of an ONNX file, and let parity.json say that it is the one measured."""
    from secateur.data.files import hash_file

    path = folder / "onnx" / "model.onnx"
    model = onnx.load(str(path))
    change(model.graph)
    onnx.save(model, str(path))
    record = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    record["artefacts"]["onnx/model.onnx"]["sha256"] = hash_file(path)
    (folder / "parity.json").write_text(json.dumps(record), encoding="utf-8")


def put_tokens_first(graph: Any) -> None:
    shape = helper.make_tensor_value_info("tokens", TensorProto.INT64, None)
    graph.node.append(helper.make_node("Identity", ["input_ids"], ["tokens"]))
    outputs = [shape, *graph.output]
    del graph.output[:]
    graph.output.extend(outputs)


def mix_batch(graph: Any) -> None:
    """Add to every vector the mean of its batch's."""
    (output,) = [each for each in graph.output if each.name == "sentence_embedding"]
    for node in graph.node:
        node.output[:] = ["own" if name == output.name else name for name in node.output]
    graph.node.append(helper.make_node("ReduceMean", ["own"], ["shared"], keepdims=1))
    graph.node.append(helper.make_node("Add", ["own", "shared"], [output.name]))


def test_a_file_whose_first_output_is_no_sentence_vector_is_found(exported: Path) -> None:
    rewrite(exported, put_tokens_first)
    assert flaws(check_model(exported))["first output, onnx"] == "tokens"


def test_files_of_other_makers_are_run_beside_the_model(exported: Path) -> None:
    (exported / "parity.json").unlink()
    findings = check_model(exported)
    assert not flaws(findings)
    assert "onnx/model.onnx" in flaws(findings, "warn")
    change_weights(exported, lambda weights: weights[WEIGHT].mul_(-3))
    (exported / "onnx" / "model_O4.onnx").write_text("junk", encoding="utf-8")
    assert flaws(check_model(exported)).keys() == {"onnx/model.onnx", "onnx/model_O4.onnx"}


def test_a_damaged_record_is_one_failure(exported: Path) -> None:
    (exported / "parity.json").write_text('{"artefacts": [1]}', encoding="utf-8")
    assert flaws(check_model(exported)).keys() == {"hashes"}


def test_a_file_whose_vectors_depend_on_their_batch_is_found(exported: Path) -> None:
    rewrite(exported, mix_batch)
    assert "alone and in a batch, onnx" in flaws(check_model(exported))


def test_an_int8_file_made_on_another_kind_of_processor_is_said(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = json.loads((exported / "parity.json").read_text(encoding="utf-8"))
    shutil.copyfile(exported / "onnx" / "model.onnx", exported / "onnx" / "model_qint8.onnx")
    record["artefacts"]["onnx/model_qint8.onnx"] = record["artefacts"]["onnx/model.onnx"]
    here = set(record["processor"]["instructions"])
    exact = {"avx_vnni", "avx512_vnni", "amx_int8"}
    record["processor"]["instructions"] = sorted(here - exact if here & exact else here | exact)
    (exported / "parity.json").write_text(json.dumps(record), encoding="utf-8")
    assert "instruction set" in flaws(check_model(exported), "warn")


def test_the_command_says_it_in_a_table_or_as_json_and_by_its_exit_code(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from secateur.cli import main

    assert main(["check", str(folder)]) == 0
    assert "0 failed" in capsys.readouterr().out
    break_weight(folder)
    assert main(["check", str(folder), "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["failed"] >= 1
    assert {each["check"] for each in record["findings"] if each["status"] == "fail"} >= {"weights"}
    assert main(["check", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
