"""``--set region_vote``: any method by any proposer, all of it beside the number, errors in one paragraph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ovss.datasets import Sample
from ovss.harness.decoding.decode import decode_reference
from ovss.harness.metrics.counting import count_reference
from ovss.harness.protocol.protocol import load_protocol
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock, Pipeline
from ovss.harness.runs.sources import open_any
from ovss.methods import Picture, UserError, create_method, load_backbone
from ovss.methods.proposals.base import ProposerParts
from ovss.methods.proposals.loading import load_proposer
from ovss.methods.proposals.regions import region_map
from ovss.methods.proposals.superpixels import Felzenszwalb

Command = Callable[..., Any]


def run(bench: Command, results: Path, *more: str, method: str = "maskclip") -> dict[str, Any]:
    command = ("run", "-m", method, "-d", "shapes", "--limit", "3", "--results", str(results), *more, "--json")
    found: dict[str, Any] = bench(*command).json()
    return found


def counts(found: dict[str, Any]) -> pd.DataFrame:
    return pd.read_parquet(Path(found["run_dir"]) / "counts.parquet")


def test_a_vote_is_another_protocol_and_is_told(bench: Command, tmp_path: Path) -> None:
    plain = run(bench, tmp_path)
    voted = run(bench, tmp_path, "--set", "region_vote=slic", "--set", "region_options.segments=30")
    other = run(bench, tmp_path, "--set", "region_vote=slic")
    assert len({one["protocol_hash"] for one in (plain, voted, other)}) == 3
    assert plain["regions"] is None and voted["regions"]["name"] == "slic" and voted["regions"]["segments"] == 30
    assert not counts(voted).equals(counts(plain)) and not counts(voted).equals(counts(other))
    shown = bench("show", voted["run_dir"]).out
    assert "regions that voted" in shown and "region_options.segments=30" in shown
    table = bench("leaderboard", "--results", str(tmp_path), "--json").json()
    assert any("slic, supervision none, segments 30" in str(row) for row in table)


def test_counts_are_those_of_the_reference(bench: Command, tmp_path: Path) -> None:
    """Decoded plainly, and every region asked by itself."""
    found = run(bench, tmp_path, "--set", "region_vote=felzenszwalb")
    data = open_any("shapes")
    setting = load_protocol("tiny").changed(region_vote="felzenszwalb").setting("shapes")
    pipeline = Pipeline(create_method("maskclip", load_backbone("tiny-clip")), setting, data.record)
    assert pipeline.voter is not None
    sample: Sample = data.load(data.ids[0])
    (picture,) = Photo(sample.image, sample.id).pictures(setting)
    labels = decode_reference(pipeline.scores(picture), sample.label.shape, pipeline.rule)
    for region in region_map(pipeline.voter, picture).unique():
        inside = region_map(pipeline.voter, picture) == region
        labels[inside] = labels[inside].bincount().argmax().to(labels.dtype)
    assert torch.equal(pipeline.predict(Photo(sample.image, sample.id), Clock()), labels)
    wanted = count_reference(labels, torch.from_numpy(sample.label.copy()), len(data.record.classes))
    assert counts(found).set_index("image").loc[sample.id, "tp"].tolist() == wanted.tp.tolist()


def test_regions_of_the_method_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    propose = Felzenszwalb.propose
    monkeypatch.setattr(Felzenszwalb, "propose", lambda self, picture: (calls.append(1), propose(self, picture))[1])
    data = open_any("shapes")
    setting = load_protocol("tiny").changed(region_vote="method").setting("shapes")
    backbone = load_backbone("tiny-clip")
    method = create_method("corrclip", backbone, proposer="felzenszwalb", similarity="clip")
    pipeline = Pipeline(method, setting, data.record)
    sample = data.load(data.ids[0])
    labels = pipeline.predict(Photo(sample.image, sample.id), Clock())
    assert calls == [1] and pipeline.voter is method.proposer  # type: ignore[attr-defined]
    regions = region_map(method.proposer, Picture.of(torch.from_numpy(sample.image.copy()).permute(2, 0, 1)))  # type: ignore[attr-defined]
    assert all(labels[regions == region].unique().numel() == 1 for region in regions.unique())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("region_vote=method",), "'maskclip' has none: --set region_vote=felzenszwalb"),
        (("region_vote=files",), "region_vote"),
        (("region_vote=slic", "region_options.scale=3"), "there is no option 'scale'"),
        (("region_vote=slic", "region_options.segments=0"), "allowed is a whole number from 1"),
        (("region_options.segments=5",), "region_vote = 'none' names none"),
        (("region_options=5", "region_options.segments=5"), "a value of its own"),
        (("region_vote=sam2",), "bench weights fetch sam2-hiera-l"),
    ],
)
def test_mistakes_are_told(bench: Command, tmp_path: Path, changes: tuple[str, ...], words: str) -> None:
    given = [part for change in changes for part in ("--set", change)]
    failed = bench("run", "-m", "maskclip", "-d", "shapes", "--limit", "1", "--results", str(tmp_path), *given)
    assert failed.code == 2 and words in " ".join(failed.err.split()) and "Traceback" not in failed.err


def test_a_method_without_clip_has_no_features_to_cluster() -> None:
    with pytest.raises(UserError, match="method's own CLIP, and it has none"):
        load_proposer("clip-clusters", ProposerParts(None, (), (), torch.device("cpu"), torch.float32))
