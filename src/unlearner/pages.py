"""Pages of HTML: templates, which escape whatever is put into them but `Markup`, and scripts by their hash."""

import base64
import hashlib
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@cache
def template(package: str, name: str) -> Template:
    """A template that lies in `package`, read and compiled once."""
    environment = Environment(
        loader=PackageLoader(package, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name)


def script_hash(script: str) -> str:
    """By which a content security policy allows this script and no other: sha256 in base64."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
