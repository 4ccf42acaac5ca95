"""Translation retrieval on the command line: what is counted, and what is refused."""

from pathlib import Path

import pytest
from conftest import SENTENCES

from secateur.cli import main
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.saving import save_encoder
from secateur.evaluation.validation import retrieval


@pytest.fixture
def model(teacher: TorchEncoder, tmp_path: Path) -> str:
    save_encoder(teacher, tmp_path / "toy")
    return str(tmp_path / "toy")


def test_each_file_has_both_ways_and_a_header_is_no_pair(
    model: str, teacher: TorchEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, some = tmp_path / "whole.tsv", tmp_path / "some.tsv"
    lines = [f"{en}\t{ru}" for en, ru in SENTENCES]
    whole.write_text("\n".join(["en\tru", *lines]), encoding="utf-8")
    some.write_text("\n".join(lines[:5]), encoding="utf-8")
    files = [str(whole), str(some)]
    assert main(["retrieve", model, "--precision", "float32", "--device", "cpu", "--pairs", *files]) == 0
    en, ru = (embed(teacher, [pair[side] for pair in SENTENCES]) for side in (0, 1))
    expected = [retrieval(en, ru), retrieval(ru, en), retrieval(en[:5], ru[:5]), retrieval(ru[:5], en[:5])]
    table = capsys.readouterr().out.splitlines()
    assert table[0].split("  ")[0] == "model"
    assert all(title in table[0] for title in ("whole en→ru", "whole ru→en", "some en→ru", "some ru→en"))
    assert table[-2].split() == ["toy", *(f"{share:.4f}" for share in expected)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\tодин\n", "pairs.tsv: 1 pairs; finding translations takes two or more"),
        ("one\nдва\n", "pairs.tsv: line 1 has 1 tab-separated columns"),
    ],
)
def test_a_file_without_pairs_is_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "pairs.tsv").write_text(text, encoding="utf-8")
    assert main(["retrieve", model, "--pairs", str(tmp_path / "pairs.tsv")]) == 2
    assert message in capsys.readouterr().err


def test_without_a_model_there_is_nothing_to_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retrieve", "--pairs", str(tmp_path / "pairs.tsv")]) == 2
    assert "name a model, or ask for --use" in capsys.readouterr().err
