"""Recipes: what is wrong is refused by the name of its key; YAML 1.2's values; overrides."""

import json
from pathlib import Path

import pytest
from conftest import ROOT

from secateur.config.errors import InputError
from secateur.config.reading import build_pruning_recipe, dump_recipe, load_recipe
from secateur.config.recipe import Recipe

RECIPE = """
teacher: {model: models/toy}
corpus: {files: [pairs.tsv, [en.txt, ru.txt]]}
saliency: {pairs: 8}
budget: {heads: 0.5, neurons: 0.5}
repair: {sentences: 16}
distillation: {steps: 10, batch_size: 4, learning_rate: 3e-5}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_a_recipe_is_named_after_its_file_and_filled_with_defaults(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    assert loaded.name == "toy"
    assert loaded.corpus.files == ("pairs.tsv", ("en.txt", "ru.txt"))
    assert loaded.saliency.criterion == "both"
    assert loaded.budget.ranking == "global"
    assert loaded.seed == 0


def test_three_e_minus_five_is_a_number(recipe: Path) -> None:
    assert load_recipe(recipe).distillation.learning_rate == 3e-5
    assert load_recipe(recipe, ["distillation.learning_rate=1e-4"]).distillation.learning_rate == 1e-4


def test_no_is_text(recipe: Path) -> None:
    override = "corpus.datasets=[{name: opus, en: en, ru: no}]"
    assert load_recipe(recipe, [override]).corpus.datasets[0].ru == "no"


def test_overrides_set_one_key_and_the_last_one_counts(recipe: Path) -> None:
    overrides = ["budget.heads=0.25", "name=other", "corpus.files=[a.tsv]", "budget.heads=0.75", "seed=3"]
    loaded = load_recipe(recipe, overrides)
    assert (loaded.budget.heads, loaded.budget.neurons) == (0.75, 0.5)
    assert (loaded.name, loaded.corpus.files, loaded.seed) == ("other", ("a.tsv",), 3)
    assert load_recipe(recipe, ["validation.pairs=9"]).validation.pairs == 9  # a stage the loaded leaves out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.hads=0.5", "budget.hads: is not a known key"),
        ("bugdet.heads=0.5", "bugdet: is not a known key"),
        ("teacher=null", "teacher: .*, not null"),
        ("budget.gradual_steps=20", "budget: gradual_steps: .*needs more than one"),
        ("budget={heads: 0.5, rounds: 2, gradual_steps: 20, initialization: random}", "budget: initialization: random"),
        ("teacher={pooling: cls}", "teacher.model: is missing"),
        ("saliency.pairs=many", 'saliency.pairs: .*, not "many"'),
        ("saliency.pairs=0", "saliency.pairs: .*greater than 0, not 0"),
        ("saliency.pairs=1.5", "saliency.pairs: .*, not 1.5"),
        ("saliency.pairs=true", "saliency.pairs: .*, not true"),
        ("saliency.criterion=taylor", "saliency.criterion: .*'taylor_weight'.*, not \"taylor\""),
        ("budget.heads=1.2", "budget.heads: .*less than or equal to 1, not 1.2"),
        ("budget.neurons=-0.1", "budget.neurons: .*greater than or equal to 0, not -0.1"),
        ("budget.heads='0.5'", 'budget.heads: .*, not "0.5"'),
        ("budget.heads=.nan", "budget.heads: "),
        ("repair.ridge=0", "repair.ridge: .*greater than 0, not 0"),
        ("distillation.learning_rate=.inf", "distillation.learning_rate: "),
        ("encodechka.tasks=[STS, XYZ]", "encodechka.tasks.1: .*, not \"XYZ\""),
        ("corpus.files=[[a, b, c]]", "corpus.files.0"),
        ("seed=2026-01-01", "seed"),
        ("budget.heads", "override 'budget.heads': expected stage.key=value"),
        ("=1", "override '=1': expected stage.key=value"),
        ("seed.low=1", "seed"),
        ("budget.heads={", "override 'budget.heads={': '{' is not a YAML value"),
        ("budget.heads.first=1", "override 'budget.heads.first=1': heads is a value, not a stage"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_named_in_one_line(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(recipe, [override])
    assert "\n" not in str(caught.value)


def test_a_missing_stage_is_named_with_its_file(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("budget", "#"), encoding="utf-8")
    with pytest.raises(InputError, match=f"{recipe}: budget: is missing"):
        load_recipe(recipe)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a recipe is a mapping of keys, this is NoneType"),
        (b"- a\n- b\n", "a recipe is a mapping of keys, this is list"),
        (b"seed: 1\nseed: 2\n", "not YAML: .*duplicate key"),
        (b"a: [", "not YAML: "),
        (b"\xff\xfe\x00", "not a UTF-8 text file"),
    ],
)
def test_a_file_that_is_no_recipe_is_named_in_one_line(recipe: Path, content: bytes, message: str) -> None:
    recipe.write_bytes(content)
    with pytest.raises(InputError, match=f"{recipe}: {message}") as caught:
        load_recipe(recipe)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: no such recipe"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="a folder, not a recipe"):
        load_recipe(tmp_path)


def test_a_resolved_recipe_reads_back_equal(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    plain = json.loads(json.dumps(dump_recipe(loaded)))
    assert build_pruning_recipe(plain, origin="loaded.json") == loaded


def test_a_recipe_cannot_be_changed_once_read(recipe: Path) -> None:
    with pytest.raises(AttributeError):
        load_recipe(recipe).seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_is_valid(path: Path) -> None:
    assert isinstance(load_recipe(path), Recipe)


def test_catalogs_may_be_a_list_in_a_file_beside_the_recipe(recipe: Path) -> None:
    wheel = {"name": "rose", "version": "1.0", "sha256": "0" * 64}
    override = ["corpus.catalogs=lists/two.yaml"]
    path = recipe.parent / "lists" / "two.yaml"
    with pytest.raises(InputError, match=r"two\.yaml: no such list of catalogs"):
        load_recipe(recipe, override)
    path.parent.mkdir()
    path.write_text(json.dumps({"wheels": [wheel, {**wheel, "name": "lily"}]}))
    assert [catalog.name for catalog in load_recipe(recipe, override).corpus.catalogs] == ["rose", "lily"]
    path.write_text(json.dumps({"wheel": []}))
    with pytest.raises(InputError, match="has the key wheels and no other"):
        load_recipe(recipe, override)
