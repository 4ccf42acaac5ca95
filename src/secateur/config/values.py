"""The kinds of values that keys take: fractions, counts, names."""

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from secateur.config.choices import MOST
from secateur.config.errors import InputError

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(gt=0), AfterValidator(lambda value: check_count(value))]
Count = Annotated[int, Field(ge=0), AfterValidator(lambda value: check_count(value))]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1), AfterValidator(lambda value: check_name(value))]

Above = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[int, Field(gt=0), BeforeValidator(lambda value: read_amount(value))]

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes

# What becomes an argument of pip and part of a file's name: a name as PEP 508 has it, a version as PEP 440. Neither can
# be an option, a path or an address; a local version has no dot, as "1.0+a.zip" would be a file to pip.
PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
VERSION = re.compile(
    r"([0-9]+!)?[0-9]+(\.[0-9]+)*((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?(\+[a-z0-9]+)?", re.ASCII
)
PackageName = Annotated[str, AfterValidator(lambda text: check_pattern(text, PACKAGE, "the name of a package"))]
PackageVersion = Annotated[str, AfterValidator(lambda text: check_pattern(text, VERSION, "an exact version"))]

LONGEST = 4_096  # characters of a name: what Linux takes for a path

FROZEN = ConfigDict(extra="forbid", strict=True)


def check_count(value: int) -> int:
    """Return a count that every library takes. Raises InputError: a larger one."""
    if value > MOST:
        raise InputError(f"should be at most {MOST}, not {value}" if value < 10**20 else f"should be at most {MOST}")
    return value


def check_pattern(text: str, pattern: re.Pattern[str], what: str) -> str:
    """Return a text that is wholly of a pattern, and short. Raises InputError: another."""
    if len(text) > 100 or not pattern.fullmatch(text):
        raise InputError(f"should be {what}, not {json.dumps(text[:60])}")
    return text


def check_name(text: str) -> str:
    """Return a name that a file may have. Raises InputError: too long, or with a character that no file's name has."""
    if len(text) > LONGEST:
        raise InputError(f"has {len(text)} characters, a name has at most {LONGEST}")
    if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in text):
        raise InputError("has a character that no name has: a zero byte or half of a surrogate pair")
    return text


def read_amount(value: Any) -> Any:
    """Return 12_800_000 for "12.8M" and 85_000 for "85k"; what is no text as it is. Raises InputError: another text."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG])", value)
    if not found:
        raise InputError(f"should be a count, as in 12800000, 12.8M or 85k, not {json.dumps(value)}")
    return round(float(found[1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[found[2]])
