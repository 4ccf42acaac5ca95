"""A model folder on a model hub: what would be uploaded, and the upload."""

import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from secateur.config.errors import InputError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def push(folder: Path, repository: str, *, dry_run: bool, private: bool) -> str:
    """Upload a model folder to OWNER/NAME and return its address; `dry_run`: return the list of files and sizes.

    The token is the one huggingface_hub keeps. Raises InputError: not a model folder, no name of a repository, no
    token, or the hub's refusal.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: not a model folder: it has no config.json")
    if not REPOSITORY.fullmatch(repository):
        raise InputError(f"REPO: {repository!r} is not of the form OWNER/NAME")
    files = list_files(folder)
    if dry_run:
        total = sum(files.values())
        lines = [f"{size / 1e6:10.2f} MB  {name}" for name, size in files.items()]
        return "\n".join([*lines, f"{total / 1e6:10.2f} MB  {len(files)} files would go to {repository}"])
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=list(files))
    except LocalTokenNotFoundError:
        raise InputError("push: no token: `hf auth login` keeps one") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(f"push: {repository}: {(str(error) or type(error).__name__).splitlines()[0]}") from None
    return f"{api.endpoint}/{repository}"


def list_files(folder: Path) -> dict[str, int]:
    """Return the files of a model folder and their bytes, hidden and unfinished ones left out."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path.relative_to(folder): path.stat().st_size for path in paths}
    return {name.as_posix(): size for name, size in names.items() if not any(part[0] == "." for part in name.parts)}
