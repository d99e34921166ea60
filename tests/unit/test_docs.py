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


def test_the_security_page_names_every_place_with_texts(tmp_path: Path) -> None:
    from unlearner.files import write_json
    from unlearner.results.layout import AuditDirectory, BenchDirectory, RunDirectory
    from unlearner.results.subjects import Manifest, SubjectDirectory
    from unlearner.results.texts import CACHES

    search, audit, run = SubjectDirectory(tmp_path), AuditDirectory(tmp_path), RunDirectory(tmp_path)
    write_json(search.manifest, vars(Manifest({}, {}, {})))
    search.neighbours.touch()
    files = [*search.naming, audit.rows, audit.audit, audit.page, run.records, run.report]
    folders = [search.data, audit.parts, run.audited, run.alternates.path, BenchDirectory(tmp_path).known]
    assert len(search.naming) == 2
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    table = page[page.index("| where |") : page.index("| caches of other libraries")]
    for name in [file.name for file in files] + [f"{folder.name}/" for folder in folders]:
        assert f"{name}`" in table, name
    guide = (DOCS / "guide/command-line.md").read_text(encoding="utf-8")
    guide = guide[guide.index("## Where things are kept") :]
    for name in CACHES:
        assert f"`$UNLEARNER_CACHE/{name}/`" in table and name in guide, name


def test_names_of_the_reference_have_docstrings() -> None:
    pages = (page.read_text(encoding="utf-8") for page in (DOCS / "reference.md", DOCS / "options.md"))
    names = re.findall(r"^::: ([\w.]+)$", "".join(pages), re.MULTILINE)
    assert names
    for name in names:
        assert (resolve_name(name).__doc__ or "").strip(), name


def test_one_table_of_methods_has_each_once_with_its_kind_needs_and_cost() -> None:
    from unlearner.methods import COMBINED_METHODS, FORGET, RETAIN, SURGERY, Method
    from unlearner.scoring.views import layers_of, reads_output

    page = (DOCS / "guide/methods.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| name \| kind \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert all(len(row) == 6 and all(row) for row in rows)
    told = {name: (kind, needs, cost) for name, kind, _, _, needs, cost in rows}
    assert [name.partition("]")[0] for name in [*told][-2:]] == ["[repselect", "[negate"]
    assert sorted([*told][:-2]) == sorted([*FORGET, *RETAIN, *COMBINED_METHODS, *SURGERY])
    assert len(rows) == len(told)
    for name in (*FORGET, *RETAIN, *COMBINED_METHODS):
        kind, needs, cost = told[name]
        method = Method(name, RETAIN[name](), None) if name in RETAIN else Method.parse(name)
        half = "retain" if name in RETAIN else "whole" if name in COMBINED_METHODS else "forget"
        assert kind.split(", ")[0] == half, name
        assert ("targeted" in kind, "states" in kind) == (method.targeted, not reads_output(method.needs)), name
        assert ("questions" in needs, "retain set" in needs) == (method.needs_questions, method.needs_retain), name
        assert ("refusals" in needs) == any("refusal" in view for view in method.needs), name
        assert cost.startswith(f"{len(method.needs)} row"), name
        assert ("to the layer" in cost) == bool(layers_of(method.needs)), name
        assert ("reference" in cost) == bool(method.asked), name
        assert ("scored once" in cost) == bool(method.reference_nll or method.reference_logp), name
