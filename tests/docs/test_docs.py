"""What the documentation says can be typed can be typed: commands run, Python runs, links and Makefile verbs exist.

``DIR`` stands for a CamVid folder, ``FILE`` for a checkpoint, ``photo.jpg`` for a photo: made up here, and small.
"""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ONLY_NAMED = ("make", "git", "pip", "python -m venv")
"""Commands that change more than a folder: they are not run."""


@dataclass(frozen=True)
class Block:
    """A fenced block: language, text, and where it starts."""

    document: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks_of(document: Path) -> list[Block]:
    found: list[Block] = []
    start, language, indent, lines = 0, "", "", list[str]()
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"( *)```(\w*)", line)
        if fence and not start:
            start, language, indent, lines = number, fence[2], fence[1], []
        elif fence:
            found.append(Block(document, start, language, "\n".join(lines) + "\n"))
            start = 0
        else:
            lines.append(line.removeprefix(indent))
    assert not start, f"{document}: the block of line {start} has no end"
    return found


BLOCKS = [b for d in DOCUMENTS for b in blocks_of(d)]
PYTHON = [b for b in BLOCKS if b.language == "python"]
CONSOLE = [b for b in BLOCKS if b.language == "console"]
TOML = [b for b in BLOCKS if b.language == "toml"]


def commands_of(document: Path) -> list[str]:
    """Lines that begin with ``$``, continued lines joined."""
    text = "".join(b.text for b in CONSOLE if b.document == document).replace("\\\n", " ")
    return [line[2:].strip() for line in text.splitlines() if line.startswith("$ ")]


def make_verbs() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


needs_readme = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="README.md is not written yet")
needs_docs = pytest.mark.skipif(not PYTHON or not CONSOLE, reason="docs/ is not written yet")


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("camvid"), np.random.default_rng(3)
    for folder, shape, high in (("test", (6, 8, 3), 256), ("testannot", (6, 8), 12)):
        (root / folder).mkdir()
        for name in ("0001TP_008550", "Seq05VD_f00000"):
            pixels = rng.integers(0, high, shape, np.uint8).repeat(10, 0).repeat(10, 1)
            Image.fromarray(pixels).save(root / folder / f"{name}.png")
    return root


MODEL = "ViT-S-32-alt"
"""Stands in for ViT-B-16-quickgelu, whose random weights would take half a gigabyte."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    state = open_clip.create_model(MODEL, pretrained=None).state_dict()
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
    return path


def save_photo() -> None:
    """``photo.jpg`` in the working folder."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)).save("photo.jpg")


def run(command: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    from ovss.harness.cli.main import main

    monkeypatch.setattr(sys, "argv", command)
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@needs_docs
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if commands_of(d)], ids=lambda d: d.name)
def test_commands_run(
    document: Path,
    camvid: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """All of a document one after the other, in one folder."""
    monkeypatch.chdir(tmp_path)
    save_photo()
    for command in commands_of(document):
        words = shlex.split(command, comments=True)
        if command.startswith(ONLY_NAMED):
            assert words[0] != "make" or set(words[1:]) <= make_verbs(), command
            continue
        assert words[0] in ("bench", "ovss-bench"), f"{command}: the test does not know this command"
        stand_ins = {"DIR": str(camvid), "FILE": str(weights), "ViT-B-16-quickgelu": MODEL}
        code = run([stand_ins.get(w, w) for w in words], monkeypatch)
        assert code == 0, f"{document.name}: {command}\n{capfd.readouterr().err}"


@needs_docs
@pytest.mark.parametrize("block", PYTHON, ids=lambda b: b.name)
def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_photo()
    code = compile("\n" * block.line + block.text, str(block.document), "exec")
    exec(code, {"__name__": "documentation"})


@pytest.mark.parametrize("block", TOML, ids=lambda b: b.name)
def test_toml_is_valid(block: Block) -> None:
    assert tomllib.loads(block.text)


@needs_readme
def test_makefile_verbs_exist() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        named = set(re.findall(r"`make ([a-z-]+)`", text)) | set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
        assert named <= make_verbs(), document.name
    assert {"bench", "test"} <= set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")))


@needs_readme
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), f"{document.name}: {target}"
        if anchor and found.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{document.name}: {target}"
