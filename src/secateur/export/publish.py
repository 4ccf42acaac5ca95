"""A model folder on a model hub: what would be uploaded, and the upload."""

import logging
import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from secateur.config.errors import InputError

log = logging.getLogger(__name__)

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
OF_A_MODEL = re.compile(  # the files that a model folder consists of; a pickle, a checkpoint and a note are none
    r"""(\d+_[A-Za-z]+/)?(
    config(_\w+)?\.json | modules\.json | sentence_\w+_config\.json | parity\.json
    | tokenizer(_config)?\.json | special_tokens_map\.json | added_tokens\.json | vocab\.(json|txt) | merges\.txt
    | (sentencepiece(\.bpe)?|spiece|tokenizer)\.model
    | model(-\d+-of-\d+)?\.safetensors | model\.safetensors\.index\.json
    | modeling\.py | README\.md | (LICENSE|NOTICE)(\.txt|\.md)? | \.gitattributes
    | onnx/\w+\.onnx | openvino/\w+\.(xml|bin)
    )""",
    re.VERBOSE | re.ASCII,
)


def push(folder: Path, repository: str, *, dry_run: bool, private: bool) -> str:
    """Upload a model folder to OWNER/NAME and return its address; `dry_run`: return the list of files and sizes.

    Only what a model folder consists of goes there; the list, and what stays, is logged first. The token is the one
    huggingface_hub keeps. Raises InputError: not a model folder, a file of it that is a link to elsewhere, no name of
    a repository, no token, or the hub's refusal.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: not a model folder: it has no config.json")
    if not REPOSITORY.fullmatch(repository):
        raise InputError(f"REPO: {repository[:80]!r} is not of the form OWNER/NAME")
    files, others = list_files(folder)
    if others:
        shown = ", ".join(others[:8]) + (f" and {len(others) - 8} more" if len(others) > 8 else "")
        log.info("no part of a model, left out: %s", shown)
    if dry_run:
        return format_files(files, f"would go to {repository}")
    log.info("%s", format_files(files, f"go to {repository}"))
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=list(files))
    except LocalTokenNotFoundError:
        raise InputError("push: no token: `hf auth login` keeps one") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(f"push: {repository}: {(str(error) or type(error).__name__).splitlines()[0]}") from None
    return f"{api.endpoint}/{repository}"


def list_files(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Return the files that belong to a model, with their bytes, and the names of the others.

    Raises InputError for a file of the model that is a link out of the folder.
    """
    files: dict[str, int] = {}
    others = []
    inside = folder.resolve()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file():
            continue
        if not OF_A_MODEL.fullmatch(name):
            others.append(name)
        elif not path.resolve().is_relative_to(inside):
            raise InputError(f"{path}: a link out of the folder; put a copy of the file there")
        else:
            files[name] = path.stat().st_size
    return files, others


def format_files(files: dict[str, int], where: str) -> str:
    lines = [f"{size / 1e6:10.2f} MB  {name}" for name, size in files.items()]
    return "\n".join([*lines, f"{sum(files.values()) / 1e6:10.2f} MB  {len(files)} files {where}"])
