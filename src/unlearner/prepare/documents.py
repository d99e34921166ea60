"""Documents as plain text: .txt, .md, .html, .pdf, .docx, and the rows of .jsonl files."""

import hashlib
import io
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unlearner.console import note, warn
from unlearner.data.sources import load_records
from unlearner.errors import UserError, brief, install, plural

EXTRA = "documents"
SCANNED = (".pdf", ".docx")
"""What may hold pictures of pages alone."""
NOT_TEXT = ("script", "style", "template", "noscript", "title", "nav", "svg")
"""Not the head as a whole: without its end tag, which is optional, the parser takes the body for a part of it."""
BLOCKS = ("p", "div", "section", "article", "h1", "h2", "h3", "h4", "h5", "h6", "li", "tr", "blockquote", "pre", "dd",
          "dt", "figcaption", "table", "ul", "ol", "header", "footer", "main", "aside")  # fmt: skip


@dataclass(frozen=True)
class Document:
    """One document; paragraphs are parted by empty lines."""

    name: str
    """Its path from the folder that was given, or the whole path: no other document has it."""
    text: str


def load_documents(paths: Sequence[str]) -> tuple[list[Document], list[str]]:
    """The documents of all files and folders, in order of their names, and sentences on those of folders that cannot be
    read. Raises UserError for a file that was named itself, and where nothing can be read at all."""
    files = _files(paths)
    named_itself = {Path(given).resolve() for given in paths}
    found: list[Document] = []
    failed: list[str] = []
    for file, name in files.items():
        try:
            found += _read(file, name)
        except UserError as error:
            if file.resolve() in named_itself:
                raise
            failed.append(_as_utf8(str(error)))
    for sentence in failed:
        warn(f"left out: {sentence}")
    if paths and not found:
        raise UserError(f"--documents {' '.join(paths)} has no text that can be read: give other documents.")
    return found, failed


def _files(paths: Sequence[str]) -> dict[Path, str]:
    """All files, each once, and their names: paths from the folders that were given, or whole paths where two files
    would have one name."""
    found: dict[Path, tuple[Path, str]] = {}
    for given in map(Path, paths):
        if given.is_file():
            found.setdefault(given.resolve(), (given, given.name))
            continue
        if not given.is_dir():
            raise UserError(f"--documents {given} does not exist: check the path.")
        files = sorted(file for file in given.rglob("*") if file.is_file() and not file.name.startswith("."))
        if others := [file for file in files if file.suffix.lower() not in READERS]:
            note(f"left out of {given}, because they do not end in {', '.join(READERS)}: {plural(len(others), 'file')}")
        for file in files:
            if file.suffix.lower() in READERS:
                found.setdefault(file.resolve(), (file, file.relative_to(given).as_posix()))
    unique = len({name for _, name in found.values()}) == len(found)
    return {file: _as_utf8(name if unique else file.as_posix()) for file, name in found.values()}


def _as_utf8(text: str) -> str:
    """With the codes of what is no UTF-8 in a file's name, which no file of records can hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def _read(file: Path, name: str) -> Iterator[Document]:
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise UserError(
            f"{file}: unknown extension {file.suffix!r}; documents must end in one of {', '.join(READERS)}."
        )
    texts = [cleaned(text) for text in reader(file)]
    if not any(texts):
        why = (
            "a scanned document needs text recognition (OCR) first"
            if file.suffix.lower() in SCANNED
            else "leave it out"
        )
        raise UserError(f"{file} has no text: {why}.")
    for number, text in enumerate(texts, start=1):
        if text:
            yield Document(name if len(texts) == 1 else f"{name}, row {number}", text)


def cleaned(text: str) -> str:
    """Lines of a paragraph as one line, paragraphs parted by one empty line, no control characters."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\u00ad\ufeff]", "", text.replace("\r\n", "\n").replace("\f", "\n\n"))
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n[ \t]*\n", text))
    return "\n\n".join(filter(None, paragraphs))


def sha256(documents: Sequence[Document]) -> dict[str, str]:
    """The hash of every document's text, by name."""
    return {each.name: hashlib.sha256(each.text.encode()).hexdigest() for each in documents}


def _plain(file: Path) -> list[str]:
    try:
        return [file.read_text(encoding="utf-8-sig")]
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text: save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({brief(error)}): check its permissions.") from None


def _rows(file: Path) -> list[str]:
    return [" ".join(filter(None, (record.question, record.answer))) for record in load_records(str(file))]


def _html(file: Path) -> list[str]:
    with _library(file):
        from bs4 import BeautifulSoup

        soup = BeautifulSoup(file.read_bytes(), "html.parser")
        for element in soup(NOT_TEXT):
            element.decompose()
        for line in soup("br"):
            line.replace_with("\n")
        for block in soup(BLOCKS):
            block.insert_before("\n\n")
            block.insert_after("\n\n")
        return [soup.get_text()]


def _pdf(file: Path) -> list[str]:
    with _library(file):
        from pypdf import PdfReader
        from pypdf.errors import DependencyError

        try:
            reader = PdfReader(io.BytesIO(file.read_bytes()))
            readable = not reader.is_encrypted or bool(reader.decrypt(""))
        except DependencyError:  # AES, without the package that pypdf wants for it
            readable = False
        if not readable:
            raise UserError(f"{file} is encrypted: save it without a password.")
        pages = [page.extract_text() for page in reader.pages]
        return [re.sub(r"(?<=[a-zà-ÿ])-\n(?=[a-zà-ÿ])", "", "\n\n".join(pages))]


def _docx(file: Path) -> list[str]:
    with _library(file):
        import docx
        from docx.table import Table

        parts = []
        for part in docx.Document(str(file)).iter_inner_content():
            if isinstance(part, Table):
                parts += [" ".join(dict.fromkeys(cell.text for cell in row.cells)) for row in part.rows]
            else:
                parts.append(part.text)
        return ["\n\n".join(parts)]


READERS: dict[str, Callable[[Path], list[str]]] = {
    ".txt": _plain, ".md": _plain, ".html": _html, ".htm": _html, ".pdf": _pdf, ".docx": _docx, ".jsonl": _rows,
}  # fmt: skip


@contextmanager
def _library(file: Path) -> Iterator[None]:
    """A parser's errors, which may be of any kind for a broken file, as one sentence; what it logs goes nowhere."""
    logger = logging.getLogger("pypdf")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # which the loggers of its modules inherit, unlike `disabled`
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{file} needs the package {error.name}; install it with: {install(EXTRA)}.") from None
    except Exception as error:
        raise UserError(f"{file} cannot be read ({_why(error)}): open it and save it again.") from None
    finally:
        logger.setLevel(before)


def _why(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:100] or type(error).__name__
