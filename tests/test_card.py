"""A card says what was measured, in the hub's own format, and what somebody else wrote on it stays."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard
from records import RECIPE

from secateur.config.reading import build_pruning_recipe
from secateur.config.recipe import PruningRecipe
from secateur.encoders.reading import Reading
from secateur.evaluation.leaderboard import SENTENCE_TASKS, Scores
from secateur.export.card import (
    BEGIN,
    END,
    merge_results,
    read_card,
    read_held_out,
    retrieval_results,
    update_card,
)
from secateur.export.origin import find_origin
from secateur.reports.cards import write_card

FILE = {"bytes": 1, "max_difference": 0.0, "cosine": 1.0, "low_cosine": 1.0}
ROWS = [
    {"stage": "teacher", "parameters": 2000, "mb": 8.0, "ms": 2.0, "cosine": 1.0, "en_ru": 0.95, "ru_en": 0.94},
    {"stage": "distilled", "parameters": 1000, "mb": 4.0, "ms": 1.0, "cosine": 0.9, "en_ru": 0.87654, "ru_en": 0.8},
]


def make_record(**torch: Any) -> dict[str, Any]:
    return {
        "artefacts": {"torch": FILE | torch, "onnx/model.onnx": FILE},
        "model": {"parameters": 5, "dimension": 2},
        "processor": {"name": "one", "instructions": []},
        "judged_by": "8 pairs of pairs.tsv",
        "input": asdict(
            Reading(8, 0, {"query": "Q: "}, "query", pools_prompt=True, truncation="left", lowercase=False)
        ),
    }


def make_recipe(**changes: Any) -> PruningRecipe:
    return build_pruning_recipe(RECIPE | {"name": "toy"} | changes, origin="toy")


def list_values(card: str) -> dict[str, float]:
    return {each.metric_name: each.metric_value for each in ModelCard(card).data.eval_results or ()}


def test_an_export_keeps_a_cards_text_and_metadata_and_adds_scores() -> None:
    old = "---\nlanguage: [en, ru]\nlicense: mit\nmine: [1, да]\ntags: [pruned]\n---\n# mine\n\nКак сделано.\n"
    card = update_card(old, make_record(mean_s=0.66, encodechka={"STS": 0.7, "PI": None}), name="mine")
    found = ModelCard(card)
    assert (found.data.license, found.data.language, found.data["mine"]) == ("mit", ["en", "ru"], [1, "да"])
    assert found.data.tags == ["pruned", "sentence-transformers", "feature-extraction", "onnx"]
    assert found.text.startswith("# mine\n\nКак сделано.\n")
    assert list_values(card) == {"Mean S, own vector": 0.66, "STS, own vector": 0.7}


def test_the_code_on_a_card_reads_as_the_model_does() -> None:
    card = update_card("", make_record(), name="toy")
    assert """encode_batch(['Q: ' + text for text in ["Hello, world", "Привет, мир"]])""" in card
    assert 'enable_truncation(8, direction="left")' in card


def test_a_card_edited_by_hand_is_still_so_after_the_next_export() -> None:
    card = update_card("", make_record(retrieval={"en_ru": 0.5, "ru_en": 0.6}), name="mine")
    edited = card.replace("A sentence encoder.", "Mine.").replace("library_name", "license: mit\nlibrary_name")
    edited += "\n## After the section\n"
    again = update_card(edited, make_record(retrieval={"en_ru": 0.7, "ru_en": 0.6}), name="other")
    assert ModelCard(again).data.license == "mit"
    assert "Mine." in again
    assert "## After the section" in again
    assert (again.count(BEGIN), again.count(END)) == (1, 1)
    assert list(list_values(again).values()) == [0.7, 0.6]
    assert update_card(again, make_record(retrieval={"en_ru": 0.7, "ru_en": 0.6}), name="mine") == again


@pytest.mark.parametrize("broken", ["---\n- a list\n---\n# mine\n", "---\na: b: c\n---\n# mine\n", "# mine\n", "---\n"])
def test_what_is_no_metadata_is_text_and_stays(broken: str) -> None:
    card = update_card(broken, make_record(), name="mine")
    assert ModelCard(card).data.library_name == "sentence-transformers"
    assert broken.strip() in read_card(card).text


def test_a_result_takes_the_place_of_the_same_metric_on_the_same_data_alone() -> None:
    (old,) = retrieval_results({"en_ru": 0.5}, pairs="a.tsv")
    (new,) = retrieval_results({"en_ru": 0.6}, pairs="a.tsv")
    (other,) = retrieval_results({"en_ru": 0.7}, pairs="b.tsv")
    own = EvalResult("task", "my data", "my data", "f1", 0.1)
    assert merge_results([own, old, other], [new]) == [own, new, other]


def test_a_runs_card_says_how_the_student_was_made_and_what_was_measured() -> None:
    scores = {
        name: Scores({task: {"own": value} for task in SENTENCE_TASKS}, benchmark="probe")
        for name, value in {"teacher": 0.75, "distilled": 0.5}.items()
    }
    card = write_card(make_recipe(), ROWS, scores)
    found = ModelCard(card)
    assert (found.data.library_name, found.data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert (found.data.language, found.data.tags[-1], found.data.license) == (["en", "ru"], "pruned", None)
    values = list_values(card)
    assert values["retrieval accuracy@1, English to Russian"] == 0.8765
    assert values["mean of the sentence tasks, own vector"] == 0.5  # the student's, not the teacher's
    assert {each.dataset_name for each in found.data.eval_results} == {"held-out English-Russian pairs", "probe"}
    assert "1,000 parameters, cut from\ngreat-teacher (2,000)" in found.text
    assert "0.5 of the heads and 0.5 of the neurons kept.\nIt was repaired in closed form, then distilled" in found.text
    assert "import secateur" in found.text
    both = list_values(update_card(card, make_record(retrieval={"en_ru": 0.1}), name="toy"))
    assert both.keys() == values.keys()


def test_what_was_not_done_is_not_said() -> None:
    recipe = make_recipe(repair={"sentences": 0})
    recipe = replace(recipe, distillation=replace(recipe.distillation, steps=0))
    card = write_card(recipe, ROWS, {})
    assert "neurons kept.\nIt was not trained." in card
    words, _, details = read_card(card).text.partition("<details>")
    assert "repaired" not in words
    assert not [key for key in ("corpus", "distillation", "encodechka", "tracking") if f'"{key}"' in details]


@pytest.mark.parametrize(
    ("steps", "step", "words"),
    [
        (0, 0, "but not trained."),
        (1, 1, "distilled for 1 step."),
        (10, None, "distilled for 10 steps."),
        (
            10,
            0,
            "trained for 10 steps, none of which improved it on held-out pairs: the student before training is kept.",
        ),
        (1200, 300, "distilled for 1,200 steps; the student of step 300, the best on held-out pairs, is kept."),
    ],
)
def test_a_card_says_which_step_was_kept(steps: int, step: int | None, words: str) -> None:
    recipe = make_recipe()
    recipe = replace(recipe, distillation=replace(recipe.distillation, steps=steps))
    card = write_card(recipe, ROWS, {}, step=step)
    assert words in card.partition("```")[0]
    assert ("in the run's recipe.json" in card) == (step is not None)


def test_a_card_says_a_budget_as_one_would() -> None:
    def say(**budget: Any) -> str:
        return write_card(make_recipe(budget=budget), ROWS, {}).partition("secateur: ")[2].partition(".\n")[0]

    gradual = say(heads=0.5, rounds=3, gradual_steps=20)
    assert gradual.endswith("It was cut in 3 rounds, with 20 steps of training after each but the last")
    assert say(params=9_200_000) == "at most 9,200,000 parameters"
    assert (
        say(layers=1, share=0.5, ms=2)
        == "1 layer kept; at most 0.5 of the teacher's parameters; at most 2.0 ms a sentence"
    )
    assert (
        say(heads=1, vocabulary=5000, rank=64) == "all of the heads and 5,000 tokens kept; word embeddings of rank 64"
    )


def test_a_student_has_its_teachers_licence_where_the_teachers_card_names_one(tmp_path: Path) -> None:
    assert find_origin(str(tmp_path)).license == {}
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# teacher\n", encoding="utf-8")
    card = write_card(make_recipe(teacher={"model": str(tmp_path)}), ROWS, {})
    assert ModelCard(card).data.license == "apache-2.0"


def test_a_card_says_what_share_of_the_pairs_its_run_held_out() -> None:
    recipe = make_recipe(corpus={"files": ["a.tsv"], "held_out": 0.02})
    assert read_held_out(write_card(recipe, ROWS, {})) == 0.02
    assert read_held_out("# no metadata\n") is None
