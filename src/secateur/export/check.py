"""Does a model folder do what it says? Every check, the files first, then what is served from them."""

import json
from collections.abc import Sequence
from pathlib import Path

from secateur import __version__
from secateur.config.errors import InputError, say_error
from secateur.data.sources import read_table
from secateur.encoders.loading import check_folder, is_there, name_like
from secateur.export import checks, serving
from secateur.export.findings import TEXTS, Check, Finding, Subject

RECORDED: tuple[Check, ...] = (checks.check_hashes, checks.check_instruction_set)  # what needs no model
LOADED: tuple[Check, ...] = (  # what the folder holds, once it loads
    checks.check_family,
    checks.check_weights,
    checks.check_dtype,
    checks.check_tokens,
    checks.check_unknown,
    checks.check_length,
    checks.check_prompts,
    checks.check_pooling,
)
SERVED: tuple[Check, ...] = (  # what is computed with it, once all of that is well
    serving.check_vectors,
    serving.check_transformers,
    serving.check_without_secateur,
    serving.check_exported_files,
    serving.check_other_files,
)
MAX_MALFORMED = 0.01  # share of the lines of a file of pairs


def check_model(model: str | Path, *, pairs: Path | None = None) -> list[Finding]:
    """Return what every check found of a folder of any sentence encoder.

    `pairs`: a .tsv of English-Russian pairs whose texts are read besides the built-in ones. Raises InputError: no such
    folder, one without a config.json, unreadable pairs.
    """
    folder = Path(model)
    if not is_there(folder):
        raise InputError(f"{model}: no such folder{name_like(str(model))}")
    check_folder(folder)
    subject = Subject(folder, read_texts(pairs))
    findings = run(RECORDED, subject)
    try:
        subject.first.model.eval()
        subject.header.keys()
    except Exception as error:  # a broken folder may raise anything
        findings.append(Finding("loading", "fail", say_error(error), "mend what is named, or save the model again"))
    else:
        findings += run(LOADED, subject)
        if not any(finding.status == "fail" and finding.check != "hashes" for finding in findings):
            findings += run(SERVED, subject)
    return [*findings, *run([checks.check_card], subject)]


def run(checks: Sequence[Check], subject: Subject) -> list[Finding]:
    """Return the findings of some checks; one that cannot be made is a failed one."""
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check(subject)
        except Exception as error:  # of a broken folder
            name = check.__name__.removeprefix("check_").replace("_", " ")
            findings.append(
                Finding(name, "fail", f"cannot be checked: {say_error(error)}", "mend or save the model again")
            )
    return findings


def read_texts(pairs: Path | None) -> dict[str, list[str]]:
    """Return the first of the user's own texts by language; none without pairs."""
    if pairs is None:
        return {}
    rows = read_table(pairs, MAX_MALFORMED)[:TEXTS]
    if not rows:
        raise InputError(f"{pairs}: there is no pair in it")
    return {"English": [row.en for row in rows], "Russian": [row.ru for row in rows]}


def count_failed(findings: Sequence[Finding]) -> int:
    return sum(finding.status == "fail" for finding in findings)


def dump_findings(model: str, findings: Sequence[Finding]) -> str:
    """Return findings as JSON, for a machine to read."""
    listed = [vars(finding) for finding in findings]
    record = {"model": model, "secateur": __version__, "failed": count_failed(findings), "findings": listed}
    return json.dumps(record, ensure_ascii=False, indent=2)
