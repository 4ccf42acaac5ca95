"""The templates of our pages, filled in; what stands in them is escaped."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def render(template: str, **values: Any) -> str:
    """Return a template of `templates/` with these values in it; a name that it lacks is an error."""
    places = Environment(
        loader=PackageLoader("secateur.reports"), autoescape=select_autoescape(), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return places.get_template(template).render(**values)
