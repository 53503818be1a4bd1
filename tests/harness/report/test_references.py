"""Papers: every method and data set has one or is said to have none, and what is written is BibTeX."""

import re
from collections import Counter
from dataclasses import dataclass

import pytest

from ovss.datasets import list_datasets
from ovss.harness.report.references import bibtex, cite, papers_of_dataset, papers_of_method, references
from ovss.methods.names import built_in_info, list_methods

from .test_grid import row

REQUIRED = {
    "article": {"author", "title", "journal", "year"},
    "inproceedings": {"author", "title", "booktitle", "year"},
    "misc": {"author", "title", "year"},
}
OPTIONAL = {"eprint", "archiveprefix", "howpublished"}


@dataclass
class Entry:
    kind: str
    key: str
    fields: dict[str, str]


def parsed(text: str) -> list[Entry]:
    """A small grammar of BibTeX: ``@kind{key, name = {text}, ...}``, braces nested; what is between is a comment."""
    found, at = [], 0
    while (start := text.find("@", at)) >= 0:
        head = re.compile(r"@(\w+)\{([\w-]+),\s*").match(text, start)
        assert head, text[start : start + 40]
        entry, at = Entry(head[1], head[2], {}), head.end()
        while text[at] != "}":
            name = re.compile(r"(\w+) = \{").match(text, at)
            assert name, text[at : at + 40]
            depth, end = 1, name.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
            assert name[1] not in entry.fields
            entry.fields[name[1]] = text[name.end() : end - 1]
            after = re.compile(r",\s*").match(text, end)
            assert after
            at = after.end()
        found.append(entry)
    return found


def every_entry() -> list[Entry]:
    return parsed(bibtex([row(m, d, 1) for m in list_methods(plugins=False) for d in list_datasets()]))


def test_every_method_and_data_set_has_a_paper_or_none() -> None:
    without = set(references().without_paper)
    methods, datasets = set(list_methods(plugins=False)), set(list_datasets())
    named_methods = {m for p in references().papers for m in p.methods}
    named_datasets = {d for p in references().papers for d in p.datasets}
    assert named_methods | named_datasets | without == methods | datasets
    assert not without & (named_methods | named_datasets) and named_methods <= methods and named_datasets <= datasets


def test_entries_are_bibtex() -> None:
    entries = every_entry()
    assert len(entries) == len(references().papers) and max(Counter(e.key for e in entries).values()) == 1
    for entry in entries:
        assert REQUIRED[entry.kind] <= set(entry.fields) <= REQUIRED[entry.kind] | OPTIONAL, entry.key
        assert all(entry.fields.values()) and entry.fields["year"] in entry.key
        assert re.fullmatch(r"\d{4}\.\d{4,5}", entry.fields.get("eprint", "0000.00000")), entry.key
        assert all(author.count(",") == 1 for author in entry.fields["author"].split(" and ")), entry.key
        for text in entry.fields.values():
            assert text.isascii() and not re.search(r"(?<!\\)[&%$#_]", text), entry.key


@pytest.mark.parametrize("method", list_methods(plugins=False))
def test_papers_agree_with_what_methods_say(method: str) -> None:
    info = built_in_info(method)
    found = papers_of_method(row(method, "shapes", 1))
    assert info is not None and len(found) == (method not in references().without_paper)
    for paper in found:
        assert str(paper.year) in info.paper and (not paper.arxiv or f"arXiv:{paper.arxiv}" in info.paper)


def test_only_what_is_cited_is_written() -> None:
    rows = [row("sclip (pad=true)", "coco_stuff", 1), row("a_plugin:Own", "shapes", 1)]
    assert [e.key for e in parsed(bibtex(rows))] == ["wang2024sclip", "lin2014coco", "caesar2018cocostuff"]
    assert cite(papers_of_dataset(rows[0])) == r"~\cite{lin2014coco,caesar2018cocostuff}"
    assert cite(papers_of_method(rows[1])) == cite(papers_of_dataset(rows[1])) == ""
    assert parsed(bibtex(rows[1:])) == []
