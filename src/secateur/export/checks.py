"""Checks of what lies in a model folder: weights, tokenizer, length, prompts, pooling, number format, card."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import AutoTokenizer

from secateur.config.errors import InputError, say_error
from secateur.encoders.inference import PARITY
from secateur.encoders.loading import find_missing, quiet_transformers
from secateur.encoders.machine import Processor, read_processor
from secateur.encoders.modeling import COUNTED, NAMES, PRUNED, count_positions
from secateur.encoders.soundness import (
    SCRIPTS,
    check_finite,
    check_tokenizer,
    check_vocabulary,
    find_absent,
    find_dtype,
    read_length,
)
from secateur.export.card import read_card
from secateur.export.findings import Finding, Subject

ORIGIN = "the model"
SOME_UNKNOWN, MANY_UNKNOWN = 0.01, 0.2  # shares of a text's tokens
LONG = 2_000  # words that are read at most
OPEN_ENDED = 100_000  # a tokenizer's length over this is no length
HOME = re.compile(r"(?:^|[\"' =(])((?:/(?:home|root|Users|tmp|mnt|data|content|workspace)/|[A-Za-z]:\\\\)[^\"' )\s]*)")


def check_weights(subject: Subject) -> Iterator[Finding]:
    """Every weight of the model is in the files, and every number is finite."""
    if find_absent(subject.transformer, subject.header):
        with quiet_transformers():
            found_missing = find_missing(str(subject.folder))
        missing = [name for name in found_missing if not name.startswith("pooler.")]
        if missing:
            found = f"{len(missing)} weights are in no file and were drawn at random, the first is {missing[0]}"
            yield Finding("weights", "fail", found, "save the model again; its vectors change at every loading")
    pickles = [path.name for path in subject.folder.glob("*.bin")]
    if pickles and not subject.header:
        found = f"{pickles[0]} is a pickle, which can hold code"
        yield Finding("weights", "warn", found, "load and save it with save_pretrained: that writes safetensors")
    try:
        check_finite(subject.model, origin=ORIGIN)
    except InputError as error:
        yield Finding("weights", "fail", clean(error), "go back to the last state before training diverged")
        return
    count = sum(values.numel() for values in subject.model.parameters())
    yield Finding("weights", "pass", f"{count:,} numbers, all there and finite")


def check_dtype(subject: Subject) -> Iterator[Finding]:
    """The number format on disk, and the one that stock libraries compute in."""
    saved = find_dtype(subject.header) if subject.header else "unknown"
    computes = str(subject.transformer.dtype).removeprefix("torch.")
    found = f"{saved} on disk; stock libraries compute in {computes}"
    if computes in ("float16", "bfloat16"):
        todo = 'on a CPU that is slow and inexact: set "dtype": "float32" in config.json'
        yield Finding("number format", "warn", found, todo)
    else:
        yield Finding("number format", "pass", found)


def check_family(subject: Subject) -> Iterator[Finding]:
    """Whether the architecture is one that secateur prunes, and what a folder with code of its own needs."""
    kind = str(subject.config.get("model_type", ""))
    if not subject.is_prunable:
        todo = f"it can be checked, but not pruned: that takes {', '.join(NAMES)}"
        yield Finding("model type", "warn", kind, todo)
        return
    if not kind.startswith(PRUNED):
        yield Finding("model type", "pass", f"{kind}, as stock libraries know it")
    elif not (subject.folder / "modeling.py").is_file():
        todo = "save it again with secateur, or copy secateur's modeling.py into the folder"
        yield Finding("model type", "fail", f"{kind} without its modeling.py: it loads with secateur alone", todo)
    else:
        yield Finding("model type", "pass", f"{kind}, with the modeling.py that loads it without secateur")
    if subject.config.get("auto_map") and not kind.startswith(PRUNED):
        todo = "load it with trust_remote_code only if you have read that code; secateur never runs it"
        yield Finding("model type", "warn", "config.json names code to run", todo)


def check_tokens(subject: Subject) -> Iterator[Finding]:
    """The tokenizer reads as tokenizer.json says, and each of its tokens has a vector."""
    tokenizer, transformer = subject.tokenizer, subject.transformer
    file = subject.folder / "tokenizer.json"
    try:
        if file.is_file():
            check_tokenizer(tokenizer, file, lowercase=bool(subject.first.do_lower_case), origin=ORIGIN)
        check_vocabulary(tokenizer, transformer, origin=ORIGIN)
    except InputError as error:
        yield Finding("tokenizer", "fail", clean(error), "write the tokenizer anew; with this one vectors say nothing")
        return
    if not file.is_file():
        yield Finding("tokenizer", "warn", "there is no tokenizer.json", "save it with tokenizer.save_pretrained")
        return
    yield Finding("tokenizer", "pass", f"{len(tokenizer):,} tokens, read as tokenizer.json says")
    padding = subject.config.get("pad_token_id")
    if padding is not None and padding != tokenizer.pad_token_id:
        counted = str(subject.config.get("model_type", "")).removeprefix(PRUNED) in COUNTED
        found = f"config.json says {padding} for the padding token, the tokenizer {tokenizer.pad_token_id}"
        todo = f'set "pad_token_id": {tokenizer.pad_token_id} in config.json'
        yield Finding("padding token", "fail" if counted else "warn", found, todo)
    stray = [
        token
        for token, number in tokenizer.get_added_vocab().items()
        if tokenizer.convert_ids_to_tokens(number) != token
    ]
    if stray:
        yield Finding(
            "added tokens", "fail", f"{stray[0]!r} has the number of another token", "write the tokenizer anew"
        )


def check_unknown(subject: Subject) -> Iterator[Finding]:
    """The share of the user's own text that the tokenizer does not know, by language; without one, scripts that it
    does not know."""
    if not subject.texts:
        unread = [name for name, text in SCRIPTS.items() if share_unknown(subject, [text])[0] > MANY_UNKNOWN]
        said = f"it cannot read {', '.join(unread)}" if unread else f"it reads {', '.join(SCRIPTS)}"
        yield Finding("scripts", "pass", said)
    for language, texts in subject.texts.items():
        share, pieces = share_unknown(subject, texts)
        found = f"{share:.2%} of the {pieces:,} tokens of {len(texts)} texts in {language} are unknown"
        if share < SOME_UNKNOWN:
            yield Finding("unknown tokens", "pass", found)
        else:
            todo = "its letters are not in the vocabulary: take a model that was trained on this language"
            yield Finding("unknown tokens", "fail" if share > MANY_UNKNOWN else "warn", found, todo)


def share_unknown(subject: Subject, texts: Sequence[str]) -> tuple[float, int]:
    """Return the share of texts' tokens that are unknown, and how many tokens they have."""
    rows = cast(list[list[int]], subject.tokenizer(list(texts), add_special_tokens=False)["input_ids"])
    pieces = [piece for row in rows for piece in row]
    return pieces.count(cast(Any, subject.tokenizer.unk_token_id)) / max(len(pieces), 1), len(pieces)


def check_length(subject: Subject) -> Iterator[Finding]:
    """How many tokens of a sentence are read: files that agree, at most the positions there are."""
    model, tokenizer = subject.model, subject.tokenizer
    if subject.is_prunable:
        try:
            length = read_length(tokenizer, subject.transformer, origin=ORIGIN)
        except InputError as error:
            yield Finding("length", "fail", clean(error), "set model_max_length in tokenizer_config.json")
            return
        positions = count_positions(subject.transformer)
    else:  # where other types count their positions from is not known here
        length = positions = int(min(tokenizer.model_max_length, OPEN_ENDED))
    said, alone = tokenizer.model_max_length, AutoTokenizer.from_pretrained(subject.folder).model_max_length
    if positions < said <= OPEN_ENDED:
        found = f"it is said to read {said} tokens, but has positions for {positions}"
        yield Finding("length", "fail", found, f'set "model_max_length": {positions} in tokenizer_config.json')
        return
    if said > OPEN_ENDED and subject.is_prunable:
        model.max_seq_length = length  # so that the checks that follow can run
    try:
        model.encode(" ".join(["word"] * 2 * min(length, LONG)))
    except Exception as error:  # whatever a model does behind its last position
        found = f"a sentence of {2 * min(length, LONG)} words ends in an error: {say_error(error)}"
        yield Finding("length", "fail", found, "set model_max_length in tokenizer_config.json to what it can read")
        return
    if positions < alone <= OPEN_ENDED:
        found = (
            f"in transformers alone a sentence of {alone} tokens is not truncated, and there are {positions} positions"
        )
        yield Finding("length", "fail", found, f'set "model_max_length": {positions} in tokenizer_config.json')
    elif length < positions:
        found = f"reads {length} tokens of a sentence, and has positions for {positions}"
        todo = "if it was trained on longer ones, raise model_max_length in tokenizer_config.json"
        yield Finding("length", "warn", found, todo)
    else:
        yield Finding("length", "pass", f"reads {length} tokens of a sentence")


def check_prompts(subject: Subject) -> Iterator[Finding]:
    """What is put before a sentence, and what a user has to ask for."""
    prompts = {name: text for name, text in subject.model.prompts.items() if text}
    default = subject.model.default_prompt_name
    if default is not None:
        yield Finding("prompts", "pass", f"{prompts.get(default, '')!r} is put before every sentence ({default})")
    elif prompts:
        named = ", ".join(f"{name}: {text!r}" for name, text in prompts.items())
        todo = "name one for each text, as in encode(texts, prompt_name=...), or set default_prompt_name"
        yield Finding("prompts", "warn", f"{named}; none is the default", todo)
    else:
        yield Finding("prompts", "pass", "none")


def check_pooling(subject: Subject) -> Iterator[Finding]:
    """What becomes of the token vectors, in the order of the modules."""
    steps = [say_module(module) for module in list(subject.model)[1:]]
    if subject.first.module_output_name == "sentence_embedding":
        steps.insert(0, "the model's own pooler")
    said = ", then ".join(steps) or "nothing"
    if not (subject.folder / "modules.json").is_file():
        todo = "say how token vectors become a sentence vector: save the model with sentence-transformers"
        yield Finding("pooling", "warn", f"{said}, which is a guess: there is no modules.json", todo)
    elif not any(isinstance(module, Normalize) for module in subject.model):
        todo = "compare its vectors by cosine, not by dot product; secateur scales them itself"
        yield Finding("pooling", "warn", f"{said}; vectors are not of unit length", todo)
    else:
        yield Finding("pooling", "pass", said)


def say_module(module: torch.nn.Module) -> str:
    if isinstance(module, Pooling):
        modes = module.pooling_mode if isinstance(module.pooling_mode, str) else " and ".join(module.pooling_mode)
        return f"{modes} pooling" if module.include_prompt else f"{modes} pooling without the prompt's tokens"
    if isinstance(module, Dense):
        activation = type(module.activation_function).__name__
        return f"Dense {module.linear.in_features} to {module.linear.out_features} ({activation})"
    return type(module).__name__


def check_hashes(subject: Subject) -> Iterator[Finding]:
    """Files are those that parity.json recorded when the model was exported."""
    again = "put the file back; if it was changed on purpose, run `secateur export` again"
    if subject.parity is None:
        if (subject.folder / PARITY).exists():
            yield Finding("hashes", "fail", f"{PARITY} is damaged: it is no record of an export", again)
        return
    for name, flaw in subject.changed.items():
        yield Finding("hashes", "fail", f"{name} {flaw}", again)
    if not subject.changed:
        yield Finding("hashes", "pass", f"the files are those that {PARITY} recorded")


def check_instruction_set(subject: Subject) -> Iterator[Finding]:
    """An int8 file is worth what was measured on processors that add int8 products alike."""
    if subject.parity is None or "onnx/model_qint8.onnx" not in subject.parity["artefacts"]:
        return
    made = subject.parity["processor"]
    there, here = Processor(made["name"], tuple(made["instructions"]), 1), read_processor()
    found = f"int8 was measured on {there.name}, this is {here.name}"
    if there.adds_int8_exactly == here.adds_int8_exactly:
        yield Finding("instruction set", "pass", f"{found}: both add int8 products alike")
    else:
        which = "this one adds them inexactly" if there.adds_int8_exactly else "that one added them inexactly"
        todo = "run `secateur export` again on the machine that serves, or use the float file"
        yield Finding("instruction set", "warn", f"{found}: {which}", todo)


def check_card(subject: Subject) -> Iterator[Finding]:
    """The card names a licence, and nothing in the folder names a place on somebody's machine."""
    path = subject.folder / "README.md"
    data = read_card(path.read_text(encoding="utf-8")).data if path.is_file() else None
    if data is None or not data.get("license"):
        yield Finding("card", "warn", "README.md names no license", "write it into its metadata, on top")
    else:
        base = f", from {data.get('base_model')}" if data.get("base_model") else ""
        yield Finding("card", "pass", f"license {data.get('license')}{base}")
    for file in (*subject.folder.glob("*.json"), path):
        place = find_place(file)
        if place:
            yield Finding("card", "warn", f"{file.name} names {place}, a place on somebody's machine", "take it out")
            break


def find_place(file: Path) -> str:
    """Return the first path of somebody's machine that a text names; a vocabulary's tokens are none."""
    if not file.is_file() or file.name in ("tokenizer.json", "vocab.json"):
        return ""
    found = HOME.search(file.read_text(encoding="utf-8", errors="replace"))
    return found[1] if found else ""


def clean(error: InputError) -> str:
    return str(error).removeprefix(f"{ORIGIN}: ")
