"""Links, references, commands and files that documents and docstrings name are there.

Nothing is fetched: of an outside address only the form is looked at. The build of the book finds
its own broken references too, but takes minutes, and reads neither the README nor data sheets nor
docstrings.
"""

import ast
import inspect
import json
import pkgutil
import re
import shlex
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from pybtex.database import parse_file  # comes with jupyter-book
from typer.main import get_command

from gengap.book.chapters import chapter_names
from gengap.cli import app
from gengap.cli.collections import ORIGINALS
from gengap.cli.tables import EVERY
from gengap.collection import COLLECTIONS
from gengap.folders import repository
from gengap.replicas import STUDIES
from gengap.studies.published import reported
from gengap.tables.details import DETAILS

ROOT = repository()
GENERATED = {".venv", "_build", "trained"}  # folders that commands of the README make
BIBLIOGRAPHY = parse_file(ROOT / "book" / "references.bib").entries
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
FILES = re.findall("file: (.*)", (ROOT / "_toc.yml").read_text())
COMMANDS = get_command(app).commands
SURNAME = r"\b[A-Z][\w-]+"
MENTION = re.compile(
    rf"((?:{SURNAME}, )*{SURNAME}(?:,? (?:and|&) {SURNAME})?)( et al\.)?,? \(?((?:19|20)\d\d)\b"
)
# Not here: what contributors are shown how to make, and files of others' repositories.
ELSEWHERE = re.compile(r"collections[./]linear|10-batches|NN-name|data/generation/")
# Papers that only a table of their numbers names, by a method of theirs.
IN_TABLES = {"kofinas2024": "NG-GNN", "zhou2023": "NFN_NP", "zhou2023transformers": "NFT"}
ARXIV = re.compile(r"arXiv[: ]+(\d{4}\.\d+(?:v\d+)?)")


def text_of(file: Path) -> str:
    """A document's text; of a notebook its Markdown."""
    if file.suffix != ".ipynb":
        return file.read_text()
    cells = json.loads(file.read_text())["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def named(files) -> dict[str, str]:
    return {str(file.relative_to(ROOT)): text_of(file) for file in sorted(files)}


def files_of_page(page: str) -> list[Path]:
    """The file of a page of the book; none, or more than one, is a mistake."""
    files = [ROOT / f"{page}{suffix}" for suffix in (".md", ".ipynb")]
    return [file for file in files if file.exists()]


CONTENTS = [TOC["root"], *FILES]
PAGES = named({file for page in CONTENTS for file in files_of_page(page)})
SHEETS = named((ROOT / "data").rglob("README.md"))
OTHERS = named([*ROOT.glob("*.md"), *(ROOT / "book").rglob("*.md")])  # also what pages include
DOCUMENTS = PAGES | SHEETS | OTHERS
CODE = named((ROOT / "src").rglob("*.py"))
LABELS = {
    label
    for text in DOCUMENTS.values()
    for pattern in (r"^\(([^)\s]+)\)=", r"^:(?:name|label): (\S+)")
    for label in re.findall(pattern, text, re.M)
}
EQUATIONS = {
    label for text in DOCUMENTS.values() for label in re.findall(r"^\$\$ \(([^)\s]+)\)", text, re.M)
}


def docstrings(code: str) -> list[str]:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)]
    return [text for node in found if (text := ast.get_docstring(node))]


def prose(text: str) -> str:
    """A document without code, where brackets are no links."""
    return re.sub(r"`[^`]*`", "", re.sub(r"```.*?```", "", text, flags=re.S))


def in_code(text: str) -> list[str]:
    """What stands in backticks, and the lines of code blocks."""
    blocks = re.findall(r"```[^\n]*\n(.*?)```", text, re.S)
    blocks += re.findall(r"(?:^ {4,}\S.*\n)+", text, re.M)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return [" ".join(piece.split()) for piece in [*spans, *lines]]


# --- references


@pytest.mark.parametrize("page", CONTENTS)
def test_every_page_of_the_contents_has_one_file(page):
    assert len(files_of_page(page)) == 1


def roles(text: str, kinds: str) -> list[str]:
    """The targets of MyST roles, {kind}`target` and {kind}`text <target>`."""
    found = re.findall(rf"\{{(?:{kinds})\}}`([^`]+)`", text)
    return [re.sub(r".*<(.*)>", r"\1", target, flags=re.S) for target in found]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_reference_of_a_document_has_its_target(name):
    text, folder = DOCUMENTS[name], (ROOT / name).parent
    for keys in roles(text, r"cite:\w+"):
        for key in keys.split(","):
            assert key.strip() in BIBLIOGRAPHY
    assert set(roles(text, "ref|numref")) <= LABELS
    assert set(roles(text, "eq")) <= EQUATIONS
    for page in roles(text, "doc"):
        assert str((folder / page).resolve().relative_to(ROOT)) in CONTENTS, page


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_of_a_document_has_its_target(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(DOCUMENTS[name])):
        if re.match(r"https?://", target):
            continue  # see the test of addresses
        path, _, anchor = target.partition("#")
        if "." in path or "/" in path:
            assert ((ROOT / name).parent / path).exists(), target
        else:
            assert (path or anchor) in LABELS, target


def addresses(text: str) -> list[str]:
    return [found.rstrip(".,;:") for found in re.findall(r"\w+://[^\s<>\"'`)\]}{]+", text)]


def test_addresses_are_well_formed():
    others = [ROOT / name for name in ("CITATION.cff", "pyproject.toml", "book/references.bib")]
    texts = DOCUMENTS | CODE | named(others)
    found = {address for text in texts.values() for address in addresses(text)}
    assert len(found) > 5
    for address in found:
        parts = urlsplit(address)
        assert parts.scheme in ("http", "https", "file", "tcp"), address
        if parts.scheme == "tcp":  # of a Dask scheduler
            assert parts.hostname and parts.port, address
        elif parts.scheme != "file":
            assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.hostname or ""), address
            assert "//" not in parts.path, address


# --- papers


def matching_entries(authors: str, others: str, year: str) -> list[str]:
    """Keys of the bibliography whose authors and year a mention like `Jiang et al. 2020` names."""
    given = re.split(r", (?:and |& )?| and | & ", authors)
    keys = []
    for key, entry in BIBLIOGRAPHY.items():
        surnames = [" ".join(person.last_names) for person in entry.persons["author"]]
        fits = surnames[0] == given[-1] and len(surnames) > 2 if others else surnames == given
        if fits and entry.fields["year"] == year:
            keys.append(key)
    return keys


def mentions(text: str, *, bare: bool) -> list[tuple[str, str, str]]:
    """Authors, ' et al.' and year of papers named in a text; bare: one surname and a year too."""
    found = MENTION.findall(" ".join(re.sub(r"^\s*#", "", text, flags=re.M).split()))
    return [m for m in found if bare or m[1] or re.search(" and | & ", m[0])]


def sources(code: str) -> list[str]:
    """What follows `Source:` in docstrings, as far as that sentence goes."""
    found = (
        re.search(r"Source:(.*?)(?=Raises:|Differs|\n\n|\Z)", t, re.S) for t in docstrings(code)
    )
    return [match[1] for match in found if match]


def test_mentions_of_papers_are_recognised():
    text = (
        "Source: Jiang et al. 2020 (PGDL), after Aithal, Kashyap and Subramanyam 2021;"
        " Kendall 1945."
    )
    found = mentions(text, bare=True)
    assert found == [
        ("Jiang", " et al.", "2020"),
        ("Aithal, Kashyap and Subramanyam", "", "2021"),
        ("Kendall", "", "1945"),
    ]
    assert mentions(text, bare=False) == found[:2]
    assert [matching_entries(*mention) for mention in found] == [
        ["jiang2020", "jiang2020pgdl"],
        ["aithal2021"],
        ["kendall1945"],
    ]
    assert matching_entries("Kendall", " et al.", "1945") == []


@pytest.mark.parametrize("name", DOCUMENTS | CODE)
def test_every_paper_that_is_named_is_in_the_bibliography(name):
    text = (DOCUMENTS | CODE)[name]
    for mention in named_papers(name, text):
        assert matching_entries(*mention), "".join(mention)
    arxiv = {entry.fields.get("eprint") for entry in BIBLIOGRAPHY.values()}
    assert set(ARXIV.findall(text)) <= arxiv


def named_papers(name: str, text: str) -> list[tuple[str, str, str]]:
    of_sources = sources(text) if name.endswith(".py") else []
    return [m for source in of_sources for m in mentions(source, bare=True)] + mentions(
        text, bare=False
    )


def test_every_entry_of_the_bibliography_is_cited():
    methods = set(reported("cnnzoo_later_tau")["method"])
    assert set(IN_TABLES.values()) <= methods
    cited = set(IN_TABLES)
    for text in (DOCUMENTS | CODE).values():
        cited.update(key.strip() for keys in roles(text, r"cite:\w+") for key in keys.split(","))
        for mention in mentions(text, bare=True):
            cited.update(matching_entries(*mention))
    assert set(BIBLIOGRAPHY) - cited == set()


REQUIRED = {
    "article": ["journal"],
    "book": ["publisher"],
    "inproceedings": ["booktitle"],
    "misc": ["eprint", "howpublished"],
    "techreport": ["institution"],
}


@pytest.mark.parametrize("key", BIBLIOGRAPHY)
def test_an_entry_of_the_bibliography_is_well_formed(key):
    entry = BIBLIOGRAPHY[key]
    fields = entry.fields
    surname = " ".join(entry.persons["author"][0].last_names).lower()
    assert re.fullmatch(rf"{surname}{fields['year']}[a-z]*", key)
    assert fields["title"]
    assert any(field in fields for field in REQUIRED[entry.type])
    if "doi" in fields:
        assert re.fullmatch(r"10\.\d{4,9}/[^\s{}]+", fields["doi"])
    if "eprint" in fields:
        assert fields["archiveprefix"] == "arXiv"
        [year] = re.fullmatch(r"(\d\d)(?:0[1-9]|1[0-2])\.\d{4,5}", fields["eprint"]).groups()
        assert 2007 <= 2000 + int(year) <= int(fields["year"])


def test_the_papers_of_the_citation_file_are_those_of_the_bibliography():
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    entries = {re.sub("[{}]", "", e.fields["title"]): e.fields for e in BIBLIOGRAPHY.values()}
    for reference in references:
        entry = entries[reference["title"]]
        assert str(reference["year"]) == entry["year"]
        for identifier in reference.get("identifiers", []):
            kind, _, value = identifier["value"].partition(":")
            assert (kind, value) == ("arXiv", entry["eprint"])


# --- commands, names and files


def commands(text: str) -> list[list[str]]:
    """The words of each `gengap ...` in backticks, in code blocks and on lines of their own."""
    lines = re.findall(r"^ *(gengap \S.*)$", text, re.M)
    pieces = [part for piece in [*in_code(text), *lines] for part in piece.split("&&")]
    pieces = [piece.strip().removeprefix(".venv/bin/").partition(" #")[0] for piece in pieces]
    return [shlex.split(piece) for piece in {*pieces} if re.match(r"gengap [a-z-]", piece)]


def is_command(words: list[str]) -> bool:
    """Whether there is this command, with these options and, first of all, this argument."""
    command = COMMANDS.get(words[1])
    if command is None:
        return words[1] in ("--help", "--version")
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    if not {word for word in words[2:] if word.startswith("-")} <= options:
        return False
    known = {
        "measure": [*COLLECTIONS, EVERY],
        "details": COLLECTIONS,
        "train": [*STUDIES, EVERY],
        "fetch": ORIGINALS,
        "run": chapter_names(),
    }.get(words[1], ())
    if len(words) < 3 or not known or not re.match(r"[a-z0-9]", words[2]):
        return True  # no argument, or a placeholder
    second = words[1] != "details" or words[3] in DETAILS
    return words[2] in known and second


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("gengap measure all --retry", True),
        ("gengap measure cnnzo", False),
        ("gengap measure cnnzoo --quer 'epoch == 1'", False),
        ("gengap details pgdl spectra --csv layers.csv", True),
        ("gengap details pgdl norms", False),
        ("gengap run 01-small-cnn-zoo -p NAME VALUE", True),
        ("gengap run 99-none", False),
        ("gengap frobnicate", False),
    ],
)
def test_what_is_a_command(line, right):
    assert commands(f"Try\n\n```\n{line}\n```\n") == [shlex.split(line)]
    assert is_command(shlex.split(line)) == right


@pytest.mark.parametrize("name", DOCUMENTS | CODE)
def test_every_command_that_is_named_exists(name):
    text = DOCUMENTS.get(name) or "\n\n".join(docstrings(CODE[name]))
    for words in commands(text):
        assert is_command(words) or ELSEWHERE.search(" ".join(words)), " ".join(words)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    for piece in in_code(text):
        if target := re.fullmatch(r"make(?: ([a-z]+).*)?", piece):
            assert target[1] in {None, *targets}, piece


@pytest.mark.parametrize("name", DOCUMENTS | CODE)
def test_every_name_of_the_package_exists(name):
    text = DOCUMENTS.get(name) or "\n\n".join(docstrings(CODE[name]))
    for found in re.findall(r"\bgengap(?:\.[A-Za-z_]\w*)+(?!\w*[./]\w)", text):
        if not ELSEWHERE.search(found):
            assert pkgutil.resolve_name(found) is not None


def folder_names(folder: Path) -> set[str]:
    """Paths below a folder, and of the members of zip files there."""
    files = [*folder.rglob("*")]
    inside = [
        n for file in files if file.suffix == ".zip" for n in zipfile.ZipFile(file).namelist()
    ]
    return {*inside, *(file.relative_to(folder).as_posix() for file in files)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_of_the_checkout_that_is_named_exists(name):
    top = {path.name for path in ROOT.iterdir()} - GENERATED
    beside = (ROOT / name).parent
    words = {word for piece in in_code(DOCUMENTS[name]) for word in piece.split()}
    for word in (word for word in words if not ELSEWHERE.search(word)):
        if (
            word.partition("/")[0] in top
            and "<" not in word
            or re.fullmatch(r"[\w-]+\.(txt|yml|cff|toml|md|bib)|LICENSE[\w-]*|[Mm]akefile", word)
        ):
            assert (ROOT / word).exists() or (beside / word).exists(), word


@pytest.mark.parametrize("name", [name for name in SHEETS if "replicas" in name])
def test_every_file_that_a_data_sheet_describes_is_beside_it(name):
    found = folder_names((ROOT / name).parent)
    for word in in_code(SHEETS[name]):
        if not re.search(r"\.(npy|csv|gz|json|zip|hdf5|safetensors|parquet|tar)$", word):
            continue
        pattern = re.sub(r"<[^>]*>|\\\*", "[^/]*", re.sub(r"([.+])", r"\\\1", word))
        assert any(re.search(rf"(^|/){pattern}$", path) for path in found), word


def test_every_published_table_is_described_and_the_other_way_round():
    folder = ROOT / "data" / "published"
    rows = re.findall(r"^\| (`.*?) \|", SHEETS["data/published/README.md"], re.M)
    described = {word for row in rows for word in re.findall(r"`([^`]+)`", row)}
    names = {file.name + "/" * file.is_dir() for file in folder.iterdir()}
    assert described == names - {"README.md"}


def test_every_example_of_the_command_line_is_seen_by_these_tests():
    for name, command in COMMANDS.items():
        assert any(words[1] == name for words in commands(inspect.getdoc(command.callback))), name
