"""Cards and tables say what happened and what the evidence bears, and name nothing of the user's machine."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard
from records import RECIPE, write_record
from scipy.stats import norm
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from secateur.config.quality import QualitySettings
from secateur.config.reading import build_pruning_recipe, build_recipe, build_settings
from secateur.config.recipe import CreationRecipe, PruningRecipe
from secateur.encoders.cost import Timing, count_disk, describe_costs
from secateur.evaluation.intervals import mean_error, share_interval
from secateur.evaluation.validation import compare
from secateur.export.export import export as export_files
from secateur.export.origin import find_origin, hide_folders, hide_path
from secateur.reports.cards import find_languages, write_card, write_making_card, write_trained_card
from secateur.reports.display import StageTable
from secateur.reports.page import report_runs


def make_rows(en_ru: float = 0.9, ru_en: float = 0.9, pairs: int | None = 2000) -> list[dict[str, Any]]:
    known = {} if pairs is None else {"pairs": pairs, "cosine_error": 0.01}
    teacher = {"stage": "teacher", "parameters": 2000, "mb": 8.0, "ms": 2.0, "cosine": 1.0, "en_ru": 0.5, "ru_en": 0.5}
    student = {"stage": "distilled", "parameters": 1000, "mb": 4.0, "ms": 1.0, "cosine": 0.9}
    return [teacher | known, student | {"en_ru": en_ru, "ru_en": ru_en} | known]


def make_recipe(**changes: Any) -> PruningRecipe:
    return build_pruning_recipe(RECIPE | {"name": "toy"} | changes, origin="toy")


def say(recipe: PruningRecipe, rows: list[dict[str, Any]] | None = None, **how: Any) -> str:
    return write_card(recipe, rows or make_rows(), {}, **how)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return a function that puts a model with this card where the hub's cache has one."""
    cache = tmp_path / "hub"
    look_up = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(
        "secateur.export.origin.try_to_load_from_cache", lambda name, file: look_up(name, file, cache_dir=cache)
    )

    def put(name: str, card: str) -> None:
        folder = cache / f"models--{name.replace('/', '--')}"
        (folder / "snapshots" / "abc").mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("abc")
        (folder / "snapshots" / "abc" / "config.json").write_text("{}")
        (folder / "snapshots" / "abc" / "README.md").write_text(card)

    return put


@pytest.mark.parametrize(
    ("en_ru", "ru_en", "pairs", "claimed"),
    [
        (0.15, 0.23, 2000, False),
        (0.9, 0.9, 2000, True),
        (0.9, 0.4, 2000, False),  # one direction is not enough
        (0.52, 0.9, 100, False),  # within chance of one half
        (0.6, 0.9, 2000, True),
        (1.0, 1.0, 2, False),  # of two, a coin finds half
        (1.0, 1.0, 29, False),
        (0.9, 0.9, None, True),  # a record of an earlier version
        (0.2, 0.2, None, False),
    ],
)
def test_languages_are_claimed_where_translations_are_found(
    en_ru: float, ru_en: float, pairs: int | None, claimed: bool
) -> None:
    rows = make_rows(en_ru, ru_en, pairs)
    assert find_languages(rows[-1]) == (["en", "ru"] if claimed else [])
    card = ModelCard(say(make_recipe(), rows))
    assert card.data.language == (["en", "ru"] if claimed else None)
    assert ("An English-Russian sentence encoder" in card.text) == claimed
    assert ("No language is named" in card.text) != claimed


def test_why_no_language_is_named_stands_on_the_card() -> None:
    assert "15% from English and 23% from Russian; its teacher 50% from English and 50% from Russian." in say(
        make_recipe(), make_rows(0.15, 0.23)
    )
    few = say(make_recipe(), make_rows(1, 1, 2))
    assert "No language is named: 2 held-out pairs cannot show which it knows." in few


def test_a_hub_teacher_is_the_base_model_and_gives_its_licence(hub: Callable[[str, str], None]) -> None:
    hub("great/teacher", "---\nlicense: other\nlicense_name: mine\nlicense_link: https://e.org/l\n---\n# t\n")
    card = ModelCard(say(make_recipe(teacher={"model": "great/teacher"})))
    assert (card.data.base_model, card.data["base_model_relation"]) == ("great/teacher", "finetune")
    assert (card.data.license, card.data.license_name, card.data.license_link) == ("other", "mine", "https://e.org/l")
    assert "cut from\ngreat/teacher (2,000)" in card.text
    assert "Nothing says" not in card.text


def test_a_folder_is_no_base_model_but_what_its_card_names_is(tmp_path: Path) -> None:
    folder = tmp_path / "owner" / "teacher"
    folder.mkdir(parents=True)
    bare = ModelCard(say(make_recipe(teacher={"model": str(folder)})))
    assert (bare.data.base_model, bare.data.license) == (None, None)
    gap = "Nothing says which public model teacher is or comes from, nor under which licence teacher"
    assert gap in bare.text
    (folder / "README.md").write_text(f"---\nbase_model: [great/root, {tmp_path}/x]\nlicense: mit\n---\n# teacher\n")
    known = ModelCard(say(make_recipe(teacher={"model": str(folder)})))
    assert (known.data.base_model, known.data.license) == ("great/root", "mit")


def test_random_weights_come_from_no_model() -> None:
    recipe = make_recipe()
    recipe = replace(recipe, budget=replace(recipe.budget, initialization="random"))
    assert ModelCard(say(recipe)).data.base_model is None


@pytest.mark.parametrize("card", [b"\xff\xfe rubbish", b"---\nlicense: [a, {b: c}]\nbase_model: 7\n---\n", b""])
def test_a_teachers_odd_card_names_nothing(tmp_path: Path, card: bytes) -> None:
    (tmp_path / "README.md").write_bytes(card)
    origin = find_origin(str(tmp_path))
    assert (origin.base_model, origin.license) == (None, {})


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/me/models/mine", "mine"), ("~/mine", "mine"), ("models/a/mine/", "mine"), ("C:\\me\\mine", "mine"),
        ("owner/name", "owner/name"), ("plain", "plain"), ("../mine", "mine"), ("https://e.org/x", "https://e.org/x"),
    ],
)  # fmt: skip
def test_of_a_path_the_last_part_is_shown(path: str, shown: str) -> None:
    assert hide_path(path) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("InputError: /home/me/my pairs/a.tsv: no such file", "InputError: my pairs/a.tsv: no such file"),
        ("[Errno 2] none: '/home/me/a.tsv'", "[Errno 2] none: 'a.tsv'"),
        ("at C:\\me\\a.tsv and ~/x/b", "at a.tsv and b"),
        ("models/a/b and https://e.org/x/y and 1/2", "models/a/b and https://e.org/x/y and 1/2"),
    ],
)
def test_a_message_for_others_has_no_folders_of_this_machine(text: str, shown: str) -> None:
    assert hide_folders(text) == shown


def test_a_page_and_a_comparison_have_no_place_on_this_machine(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_record(
            tmp_path, name, corpus={"files": [f"{tmp_path}/{name}/pairs.tsv"]}, teacher={"model": f"{tmp_path}/t"}
        )
    for names in (["one"], ["one", "two"]):
        page = report_runs(names, tmp_path, None).read_text(encoding="utf-8")
        assert str(tmp_path) not in page
        assert "pairs.tsv" in page
        assert ("What differs" in page) == (len(names) == 2)
    assert "corpus.files" in page[page.index("What differs") :]


def test_a_card_names_sources_but_no_place_on_this_machine(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    corpus = {
        "files": [f"{tmp_path}/news.tsv.gz", [f"{tmp_path}/talks.en", f"{tmp_path}/talks.ru"]],
        "datasets": [{"name": "great/corpus", "en": "en", "ru": "ru"}, {"name": str(teacher), "en": "a", "ru": "b"}],
        "words": 3000,
    }
    recipe = make_recipe(teacher={"model": str(teacher)}, corpus=corpus, encodechka={"data": f"{tmp_path}/encodechka"})
    for card in (say(recipe), say(recipe, step=3), say(recipe, step=0, has_record=False)):
        assert str(tmp_path) not in card
        sources = "news, talks, great/corpus, teacher, the 3,000 most frequent words of each language."
        assert f"Sentence pairs: {sources}" in card


def test_a_made_encoders_card_names_no_place_either(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.mkdir()
    (body / "README.md").write_text("---\nlicense: mit\n---\n# body\n")
    plain = {
        "name": "toy", "teacher": [{"model": f"{tmp_path}/t"}], "corpus": {"files": [f"{tmp_path}/pairs.tsv"]},
        "student": {"body": {"model": str(body)}}, "distillation": RECIPE["distillation"],
    }  # fmt: skip
    recipe = build_recipe(plain, origin="toy")
    assert isinstance(recipe, CreationRecipe)
    card = write_making_card(recipe, f"0.5 x {tmp_path}/t + 0.5 x great/teacher", make_rows(), {}, step=0)
    assert str(tmp_path) not in card
    assert ModelCard(card).data.license == "mit"
    assert "distilled" not in (ModelCard(card).data.tags or ())
    assert "trained for 40 steps from the vectors of 0.5 x t + 0.5 x great/teacher, none of which improved it" in card


def test_what_was_thrown_away_is_not_said_to_be_in_the_student() -> None:
    recipe = make_recipe()
    assert "distilled for" not in say(recipe, step=0).partition("```")[0]
    teacher, student = make_rows()
    rows = [teacher, student | {"stage": "repaired, not kept"}, student | {"stage": "pruned"}]
    assert "a repair in closed form was tried, did not improve it on held-out pairs and is not kept" in say(
        recipe, rows
    )
    assert "repaired in closed form" not in say(recipe, rows).partition("```")[0]
    rows[1] |= {"stage": "repaired"}
    assert "It was repaired in closed form" in say(recipe, rows)
    last = replace(recipe, distillation=replace(recipe.distillation, keep="last"))
    assert "the best on held-out pairs" not in say(last, step=40) + say(last, step=20)


def test_a_criterion_is_credited_where_it_was_used() -> None:
    theirs = make_recipe(saliency={"pairs": 8, "criterion": "taylor_weight"})
    assert "Petrov & Sentyurev" in say(theirs)
    assert "Petrov & Sentyurev" not in say(make_recipe())
    words_alone = make_recipe(saliency={"pairs": 8, "criterion": "taylor_weight"}, budget={"vocabulary": 50})
    assert "Petrov & Sentyurev" not in say(words_alone)


def test_few_pairs_are_visible_with_what_they_may_be_off_by() -> None:
    table = str(StageTable(make_rows(1.0, 0.5, pairs=2)))
    assert "judged on 2 held-out pairs alone" in table
    assert "0.34 to 1.00" in table  # Wilson's interval of 2 of 2
    assert "judged" not in str(StageTable(make_rows(pairs=2000)))
    card = say(make_recipe(), make_rows(1.0, 0.5, pairs=2))
    assert "judged on 2 held-out pairs alone" in card
    assert "model-index" not in card  # a hub would show an accuracy of 1 and no word of the two pairs
    assert "40 pairs held out by the run" in say(make_recipe(), make_rows(1.0, 0.5, pairs=40))


def test_a_share_interval_is_where_the_score_test_does_not_reject() -> None:
    """Wilson's bounds solve |share - p| = z sqrt(p (1 - p) / n)."""
    z = norm.ppf(0.975)
    for share, count in [(0.5, 2), (0.9, 40), (1.0, 5), (0.0, 9), (0.23, 1000)]:
        for bound in share_interval(share, count):
            if 1e-9 < bound < 1 - 1e-9:
                assert abs(share - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / count), abs=1e-4)
    assert share_interval(0.0, 0) == (0.0, 1.0)


def test_of_few_values_a_mean_is_less_sure_than_two_standard_errors() -> None:
    values = np.array([1.0, 2.0])
    assert mean_error(values) == pytest.approx(12.706 * np.std(values, ddof=1) / 2**0.5, rel=1e-4)  # Student's t, 1 df
    assert mean_error(values[:1]) is None


def test_a_stages_row_says_over_how_many_pairs_it_is() -> None:
    units = np.eye(3, dtype=np.float32)
    assert compare(units, units, units, units).row == {
        "cosine": 1.0, "en_ru": 1.0, "ru_en": 1.0, "pairs": 3, "cosine_error": 0.0,
    }  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="memory is counted on Linux")
def test_memory_and_disk_hold_the_weights(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """A toy of 20 MB, with ONNX files: whatever loads it holds at least its weights, mapped or not."""
    folder = tmp_path / "toy"
    shape = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 1024}
    BertModel(BertConfig(vocab_size=len(tokenizer), pad_token_id=0, **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert weights > 19e6
    export_files(str(folder), build_settings(QualitySettings, {"sentences": 20}, origin=""), int8=False)
    rows = {row["backend"]: row for row in describe_costs(str(folder), Timing(8, 1, 0))}
    tokenizer_size = (folder / "tokenizer.json").stat().st_size
    for backend, file in {"torch": folder / "model.safetensors", "onnx": folder / "onnx" / "model.onnx"}.items():
        assert 0.98 * weights < rows[backend]["memory"] < 4 * weights  # a pooler that nothing uses is not held
        assert rows[backend]["disk"] >= file.stat().st_size + tokenizer_size
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").write_bytes(bytes(1000))
    assert count_disk(folder) == rows["torch"]["disk"] + 1000


def test_a_model_trained_on_has_new_numbers_and_its_old_licence() -> None:
    settings = make_recipe().distillation
    old = "---\nlicense: mit\nbase_model: great/root\nlanguage: [en]\n---\n# old\n\nIt finds 99% of translations.\n"
    card = write_trained_card(old, "mine", "/home/me/teacher", settings, make_rows(0.3, 0.3), 40, held_out=0.05)
    data = ModelCard(card).data
    assert (data.license, data.base_model, data.language) == ("mit", "great/root", None)
    assert "99%" not in card
    assert "mine,\ndistilled for 40 steps from the vectors of teacher." in card
    assert write_trained_card(old, "mine", "t", settings, make_rows(), 0, held_out=0.05) == old
