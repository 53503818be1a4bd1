"""Papers of methods and data sets (``references.toml``) as BibTeX, and how a table cites them."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ...datasets.toml import read_toml
from .rows import Row

_VENUE = {"inproceedings": "booktitle", "article": "journal", "misc": "howpublished"}


class Paper(BaseModel):
    """A paper, and the ``methods`` and ``datasets`` that it stands for; texts are LaTeX."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    type: Literal["inproceedings", "article", "misc"]
    methods: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    author: str
    title: str
    venue: str = ""
    year: int
    arxiv: str = ""

    @property
    def bibtex(self) -> str:
        """The entry; what is not known is left out."""
        fields = {"author": self.author, "title": self.title, _VENUE[self.type]: self.venue, "year": str(self.year)}
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archiveprefix": "arXiv"}
        lines = [f"  {name} = {{{text}}},\n" for name, text in fields.items() if text]
        return f"@{self.type}{{{self.key},\n{''.join(lines)}}}\n"


class References(BaseModel):
    """``papers``, and the names of what has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    without_paper: tuple[str, ...]
    papers: tuple[Paper, ...]


@cache
def references() -> References:
    """All that is known, in the order of the file."""
    return References.model_validate(read_toml(Path(__file__).parent / "references.toml", "the list of papers"))


def papers_of_method(row: Row) -> tuple[Paper, ...]:
    """Of the method of a run, whatever its options."""
    return tuple(p for p in references().papers if row.method.partition(" (")[0] in p.methods)


def papers_of_dataset(row: Row) -> tuple[Paper, ...]:
    """Of the data set of a run."""
    return tuple(p for p in references().papers if row.dataset in p.datasets)


def cite(papers: Iterable[Paper]) -> str:
    r"""``~\cite{...}``, or "" for no paper."""
    keys = ",".join(p.key for p in papers)
    return rf"~\cite{{{keys}}}" if keys else ""


def bibtex(rows: Iterable[Row]) -> str:
    """Entries of the papers that tables of these runs cite."""
    cited = {p.key for row in rows for p in (*papers_of_method(row), *papers_of_dataset(row))}
    entries = (p.bibtex for p in references().papers if p.key in cited)
    return "\n".join(["% Written by `bench leaderboard`: papers of methods and data sets in its tables.\n", *entries])
