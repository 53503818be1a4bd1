"""What is known at once is said at once: before torch, before open_clip, before data are read."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ovss.methods import UserError

WITHOUT = """
import sys
sys.modules[{module!r}] = None  # importing it fails
from ovss.harness.cli.main import main
for line in {lines!r}:
    sys.argv = ["bench", *line.split()]
    sys.stderr.write("> ")
    try:
        main()
    except SystemExit as end:
        assert end.code == 2, (line, end.code)
    else:
        raise AssertionError(line)
"""
BEFORE_TORCH = {
    "run -m sclp -d shapes": "did you mean sclip?",
    "run -m sclip,clipp -d shapes": "did you mean clip?",
    "run -m sclip, -d shapes": "unknown method ''",
    "run -m sclip -d shapes --option pad": "--option takes NAME=VALUE",
    "run -m sclip -d shapes --set colour=1": "colour: no such field",
    "run -m sclip -d shapes --set short_side_px=-1": "short_side_px",
    "run -m sclip -d shapes --refine pamrr": "refine",
    "run -m sclip -d shapes --protocol unifed": "did you mean unified?",
    "run -m sclip -d shapez": "unknown data set 'shapez'",
    "run -m sclip -d camvid": "--data-root",
    "run -m sclip -d shapes,camvid --data-root gone": "The folder gone does not exist",
    "run -m sclip -d gone.toml": "gone.toml does not exist",
    "run -m sclip -d mmseg:gone.py": "gone.py does not exist",
    "run -m sclip -d shapes --backbone ViT-B-16 --weights gone.pt": "gone.pt does not exist",
    "run -m sclip -d shapes --device cuba": "unknown device 'cuba'",
    "run -m sclip -d shapes --device meta": "unknown device 'meta'",
    "run -m sclip -d shapes --picture out.jpg": "must end in .png",
    "run -m sclip -d shapes --picture a-file/out.png": "a-file is no folder",
    "run -m sclip -d shapes --results a-file": "a-file is no folder",
    "segment a-photo.png --classes cat --option pad": "--option takes NAME=VALUE",
    "segment a-photo.png --classes cat -o out.jpg": "must end in .png",
    "segment a-file --classes cat": "a-file: the file cannot be decoded",
    "segment gone.png --classes cat": "gone.png: the file does not exist",
}
BEFORE_OPEN_CLIP = {
    "run -m sclip -d shapes --option colour=3": "method 'sclip': there is no option 'colour'. Known: pad, positions",
    "run -m sclip -d shapes --option positions=sise": "allowed is factor, size, antialias or bilinear",
    "run -m sclip,clip -d shapes --option colour=3": "none of the methods sclip, clip takes an option 'colour'",
    "run -m sclip,clip -d shapes --option slcip.pad=true": "none of the methods; did you mean sclip?",
    "run -m sclip,clip -d shapes --option sclip.colour=3": "method 'sclip': there is no option 'colour'",
    "run -m sclip,clip,sclip -d shapes": "--method names sclip twice",
    "run -m clip-dinoiser -d shapes --option gama=0.2": "did you mean gamma?",
    "run -m clip-dinoiser -d shapes --option gamma=high": "option gamma is 'high': allowed is a number from 0 below 1",
    "run -m clip-dinoiser -d shapes --option gamma=nan": "option gamma is nan: allowed is a number",
    "run -m maskclip-original -d shapes --option exact_gelu=1": "option exact_gelu is 1: allowed is true or false",
    "segment a-photo.png --classes cat --option colour=3": "there is no option 'colour'",
}


@pytest.mark.parametrize(("module", "wrong"), [("torch", BEFORE_TORCH), ("open_clip", BEFORE_OPEN_CLIP)])
def test_nothing_heavy_is_imported_first(
    tmp_path: Path, environment: dict[str, str], module: str, wrong: dict[str, str]
) -> None:
    (tmp_path / "a-file").write_text("x")
    Image.new("RGB", (32, 32)).save(tmp_path / "a-photo.png")
    code = WITHOUT.format(module=module, lines=list(wrong))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    said = done.stderr.split("> ")[1:]
    assert done.returncode == 0 and len(said) == len(wrong), done.stderr
    for (line, words), text in zip(wrong.items(), said, strict=True):
        assert text.startswith("error: ") and words in text, (line, text)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-file", "a-photo.png"]


def test_a_device_without_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ovss.harness.cli import early

    monkeypatch.setattr(early, "_GPU_DRIVERS", (str(tmp_path / "driver"),))
    with pytest.raises(UserError, match="no GPU driver"):
        early.check_device("cuda:1")
    (tmp_path / "driver").write_text("")
    early.check_device("cuda:1")  # torch is asked later
    early.check_device("cpu")


def test_results_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ovss.harness.cli import early

    (tmp_path / "here").mkdir()
    monkeypatch.setattr(early.os, "access", lambda path, mode: False)
    early.check_folder(tmp_path / "here")  # read-only, it may hold the answer
    with pytest.raises(UserError, match="cannot be made"):
        early.check_folder(tmp_path / "gone/results")
