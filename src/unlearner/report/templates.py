"""The templates of the report's pages. Whatever is put into them is escaped, unless it is `Markup`."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@cache
def template(name: str) -> Template:
    """A template of this package, read and compiled once."""
    environment = Environment(
        loader=PackageLoader("unlearner.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name)
