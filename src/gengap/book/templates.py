"""Texts that are more markup than code: Jinja's templates, each beside the module that fills it."""

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

TEMPLATES = Environment(
    loader=PackageLoader("gengap", ""),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


def filled(template: str, **values: object) -> str:
    """The text of a template, by its path in the package; a value that it lacks is an error."""
    return TEMPLATES.get_template(template).render(values)
