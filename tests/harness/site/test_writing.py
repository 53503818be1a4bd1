"""The folder of a report: swapped in whole, and nothing of others is replaced."""

from pathlib import Path

import pytest

from ovss.harness.site.writing import MARK, new_report
from ovss.methods import UserError


def write(output: Path, *names: str) -> None:
    with new_report(output) as folder:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_report_replaces_the_one_before(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "site"
    write(output, "index.html", "runs/a.html")
    write(output, "index.html", "runs/b.html")
    assert files(output) == ["index.html", MARK, "runs/b.html"]
    assert [p.name for p in output.parent.iterdir()] == ["site"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    write(tmp_path / "site", "index.html")
    assert files(tmp_path / "site") == ["index.html", MARK]


def test_folders_of_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'mine.txt', which no report has written"):
        write(tmp_path / "notes", "index.html")
    assert files(tmp_path) == ["notes/mine.txt"]


def test_a_file_of_others_in_an_earlier_report(tmp_path: Path) -> None:
    write(tmp_path / "site", "index.html")
    (tmp_path / "site" / "runs").mkdir()
    (tmp_path / "site" / "runs" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"runs/mine.txt"):
        write(tmp_path / "site", "index.html")
    assert (tmp_path / "site" / "runs" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("mark", ["", "[]", '{"files": "mine.txt"}', "{"])
def test_a_mark_that_says_nothing(tmp_path: Path, mark: str) -> None:
    (tmp_path / MARK).write_text(mark)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="which no report has written"):
        write(tmp_path, "index.html")


def test_what_goes_wrong_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "site", "index.html")

    def break_off() -> None:
        with new_report(tmp_path / "site") as folder:
            (folder / "other.html").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert files(tmp_path) == ["site/index.html", f"site/{MARK}"]


def test_a_swap_that_fails_halfway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "site", "index.html")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match="No space left"):
        write(tmp_path / "site", "other.html")
    assert files(tmp_path) == ["site/index.html", f"site/{MARK}"]


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        write(tmp_path / "site", "index.html")
