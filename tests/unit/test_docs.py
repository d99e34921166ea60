"""Links, anchors and names in the documentation lead somewhere. `make docs` checks the built pages besides."""

import re
import unicodedata
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def text(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(((?!https?:|mailto:)[^)\s]+)\)", text(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as mkdocs makes them; those of code hosts are the same here."""
    made: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text(page), re.MULTILINE):
        plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
        anchor = base = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
        number = 0
        while anchor in made:
            number += 1
            anchor = f"{base}_{number}"
        made.add(anchor)
    return made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{link}: there is no such file"
        if page.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f"{link} leads out of docs/, where the built pages cannot follow"
        if anchor:
            assert anchor in anchors(target), f"{link}: there is no such heading"


def test_every_page_has_its_place_in_the_navigation() -> None:
    def leaves(item: Any) -> list[str]:
        if isinstance(item, str):
            return [item]
        return [leaf for each in (item.values() if isinstance(item, dict) else item) for leaf in leaves(each)]

    nav = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(nav) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_pages_named_in_code_exist() -> None:
    for folder in ("src", "tests", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r"\bdocs/[\w/-]+\.md\b", file.read_text(encoding="utf-8")):
                assert (ROOT / name).is_file(), f"{file.relative_to(ROOT)} names {name}"


def test_names_of_the_reference_have_docstrings() -> None:
    pages = (page.read_text(encoding="utf-8") for page in (DOCS / "reference.md", DOCS / "options.md"))
    names = re.findall(r"^::: ([\w.]+)$", "".join(pages), re.MULTILINE)
    assert names
    for name in names:
        assert (resolve_name(name).__doc__ or "").strip(), name
