"""A student's prompts: kept, folded away or a token each; and rows that are read with a prompt of their own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from secateur.config.distillation import DistillationSettings
from secateur.config.errors import InputError
from secateur.config.pruning import RepairSettings
from secateur.config.teacher import TeacherSettings
from secateur.data.pairs import Pairs
from secateur.distillation.batches import PairDataset
from secateur.distillation.checks import check_distillation
from secateur.encoders.encoder import TorchEncoder, embed, tokenize
from secateur.encoders.loading import load_encoder
from secateur.encoders.prompts import change_prompts, count_prompt, replace_prompts
from secateur.encoders.saving import save_encoder
from secateur.pruning.repair import Aligned, repair
from secateur.pruning.slicing import slice_encoder
from secateur.runs.training import embed_targets

PROMPTS = {"query": "cat - ", "passage": "роза - "}  # four letters of which only `cat` is a token: unlike lengths
ALIKE = {"query": "cat - ", "passage": "old - ", "document": "old - "}  # two tokens each


@pytest.fixture
def prompted(teacher: TorchEncoder) -> TorchEncoder:
    return replace_prompts(teacher, ALIKE, "query")


def states(encoder: TorchEncoder, rows: list[list[int]]) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [encoder.transformer.get_submodule("embeddings")(torch.tensor([row]))[0] for row in rows]


def test_every_stage_reads_the_default_prompt(prompted: TorchEncoder, teacher: TorchEncoder) -> None:
    assert tokenize(prompted, ["the roof"]) == tokenize(teacher, ["cat - the roof"])
    assert tokenize(prompted.prompted("passage"), ["the roof"]) == tokenize(teacher, ["old - the roof"])
    assert tokenize(prompted.prompted(None), ["the roof"]) == tokenize(prompted, ["the roof"])
    assert count_prompt(prompted, "cat - ") == 2


def test_folding_leaves_every_other_token_its_embedding_bit_for_bit(
    prompted: TorchEncoder, sentences: list[str]
) -> None:
    folded = change_prompts(prompted, "fold")
    assert not folded.prompt
    assert folded.max_length == prompted.max_length - 2
    for own, whole in zip(tokenize(folded, sentences), tokenize(prompted, sentences), strict=True):
        assert len(whole) - len(own) == 2
        (found,), (expected,) = states(folded, [own]), states(prompted, [whole])
        assert torch.equal(found, torch.cat([expected[:1], expected[3:]]))
    assert change_prompts(folded, "fold") is folded


def test_a_token_takes_a_prompts_place(prompted: TorchEncoder, sentences: list[str], tmp_path: Path) -> None:
    student = change_prompts(prompted, "token")
    assert {name: text for name, text in student.model.prompts.items() if text} == {
        "query": "<query>", "passage": "<document>", "document": "<document>"
    }  # fmt: skip
    document = len(prompted.tokenizer)
    number = document + 1
    for own, whole in zip(tokenize(student, sentences), tokenize(prompted, sentences), strict=True):
        assert own == [own[0], number, *whole[3:]]
    assert tokenize(student.prompted("passage"), sentences[:1])[0][1] == document
    words = student.transformer.get_input_embeddings().weight
    cat, dash = tokenize(prompted, [""])[0][1:3]
    torch.testing.assert_close(words[number], (words[cat] + words[dash]) / 2)
    save_encoder(student, tmp_path / "student")
    stock = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    np.testing.assert_allclose(stock.encode(sentences), embed(student, sentences), atol=1e-5)
    loaded = load_encoder(TeacherSettings(model=str(tmp_path / "student")))
    assert tokenize(loaded, sentences) == tokenize(student, sentences)
    assert change_prompts(loaded, "token") is loaded


def test_prompts_are_kept_where_that_is_asked_or_there_are_none(prompted: TorchEncoder, teacher: TorchEncoder) -> None:
    assert change_prompts(prompted, "keep") is prompted
    assert change_prompts(teacher, "fold") is teacher


def test_prompts_of_unlike_length_or_that_run_into_the_sentence_are_refused(teacher: TorchEncoder) -> None:
    with pytest.raises(InputError, match="prompts: fold: the model's prompts differ in tokens"):
        change_prompts(replace_prompts(teacher, PROMPTS, "query"), "fold")
    with pytest.raises(InputError, match="do not stand apart from a sentence's"):
        change_prompts(replace_prompts(teacher, {"query": "c"}, "query"), "fold")


def test_repair_brings_back_what_a_folded_prompt_gave(prompted: TorchEncoder, sentences: list[str]) -> None:
    from conftest import keep_all

    kept = keep_all(prompted)
    folded = slice_encoder(change_prompts(prompted, "fold"), kept)
    repaired = repair(folded, prompted, kept, sentences, RepairSettings(sentences=64))
    unseen = ["The cat reads a letter.", "Кошка на мосту.", "We sold the roses at nine.", "Ключ на столе."]
    expected = embed(prompted, unseen)
    before, after = ((embed(each, unseen) * expected).sum(axis=1).mean() for each in (folded, repaired))
    assert after > before
    assert after > 0.9


def test_aligned_states_have_the_students_tokens_and_the_teachers_mean() -> None:
    whole = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    aligned = Aligned([whole], 2, pools=True)
    (shared,), (pooled,) = aligned.shared([whole]), aligned.pooled([whole])
    assert torch.equal(shared, whole[:, [0, 3, 4, 5]])
    torch.testing.assert_close(pooled.mean(dim=1), whole.mean(dim=1))
    torch.testing.assert_close(pooled - pooled[:, :1], shared - shared[:, :1])


def test_rows_are_read_and_matched_with_the_prompt_of_their_source(
    prompted: TorchEncoder, pairs: Pairs, tmp_path: Path
) -> None:
    source = ["long" if row % 3 == 0 else "short" for row in range(len(pairs))]
    rows = replace(pairs, source=source)
    settings = DistillationSettings(steps=1, batch_size=4, source_prompts={"long": "passage"})
    targets = embed_targets(prompted, rows, settings, tmp_path)
    dataset = PairDataset(prompted, rows, targets, 64, {}, settings.source_prompts)
    both = [*rows.en, *rows.ru]
    for number, (sentence, name) in enumerate(zip(both, [*source, *source], strict=True)):
        reader = prompted.prompted("passage" if name == "long" else None)
        assert dataset.pieces[number].tolist() == tokenize(reader, [sentence])[0]
        expected = embed(reader, [sentence])[0]
        np.testing.assert_allclose(targets[np.array([number])][0], expected, atol=2e-3)


def test_a_prompt_that_the_teacher_does_not_have_is_named(prompted: TorchEncoder, pairs: Pairs) -> None:
    settings = DistillationSettings(steps=1, batch_size=4, source_prompts={"toy": "answer"})
    with pytest.raises(InputError, match=r"source_prompts\.toy: answer: the teacher has no prompt of this name; "):
        check_distillation(pairs, settings, student=prompted, teacher=prompted)
    with pytest.raises(InputError, match=r"distillation\.source_prompts: no source long; there are toy"):
        check_distillation(pairs, replace(settings, source_prompts={"long": "passage"}))
