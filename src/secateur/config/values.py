"""The kinds of values that keys take: fractions, counts, names."""

import json
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from secateur.config.errors import InputError

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]

Above = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[int, Field(gt=0), BeforeValidator(lambda value: read_amount(value))]

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes

FROZEN = ConfigDict(extra="forbid", strict=True)


def read_amount(value: Any) -> Any:
    """Return 12_800_000 for "12.8M" and 85_000 for "85k"; what is no text as it is. Raises InputError: another text."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG])", value)
    if not found:
        raise InputError(f"should be a count, as in 12800000, 12.8M or 85k, not {json.dumps(value)}")
    return round(float(found[1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[found[2]])
