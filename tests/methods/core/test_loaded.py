"""Licences and training data follow what a method really loaded, not what its name stands for."""

import hashlib
from pathlib import Path

import pytest
import torch

from ovss.methods import Backbone, UserError, create_method, load_backbone
from ovss.methods.core.loaded import OWN_FILE, LoadedWeights, recorded
from ovss.methods.core.method import Method, MethodInfo, describe
from ovss.methods.models import weights
from ovss.methods.models.backbone_names import TINY_CLIP
from ovss.methods.models.weights import WeightFile, find_entry, find_weights
from ovss.methods.registry import check_parts

HEAD = "found-head"


class Trained(Method):
    """Loads the heads of FOUND, as a trained method would its weights."""

    info = MethodInfo("trained", title="t", paper="p", training_free=False, trained_on="pairs", backbone="")

    def __init__(self, device: torch.device, dtype: torch.dtype, weights: Path | None = None) -> None:
        super().__init__()
        self.path = find_weights(HEAD, weights)

    encode_text = encode_image = score = Method.segment  # never called


NAME = f"{__name__}:Trained"


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up file for FOUND's head, in the mirror; the catalogue knows its checksum."""
    path = tmp_path / HEAD / "decoder_weights.pt"
    path.parent.mkdir()
    path.write_bytes(b"head")
    entry = find_entry(HEAD)
    file = WeightFile(name="decoder_weights.pt", url=entry.files[0].url, sha256=hashlib.sha256(b"head").hexdigest())
    monkeypatch.setattr(weights, "find_entry", lambda name: entry.model_copy(update={"files": (file,)}))
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path))
    return path


def test_what_is_found_by_name(head: Path) -> None:
    method = create_method(NAME)
    assert method.licences == {HEAD: find_entry(HEAD).licence}
    assert describe(method) == {
        "title": "t",
        "training_free": False,
        "trained_on": "pairs",
        "published": None,
        "licences": method.licences,
    }


def test_a_file_that_differs_is_refused_by_name_and_is_the_users_by_path(head: Path, tmp_path: Path) -> None:
    head.write_bytes(b"hEad")
    with pytest.raises(UserError, match=r"not the catalogued file of 'found-head': its sha256 is .*fetch found-head"):
        create_method(NAME)
    for given in (head, head.parent):
        method = create_method(NAME, weights=given)
        (name,) = method.licences
        assert method.licences[name] == OWN_FILE
    assert describe(create_method(NAME, weights=head))["trained_on"] == (
        "unknown: file decoder_weights.pt; the released weights: pairs"
    )


def test_a_given_file_with_the_known_checksum_is_the_catalogued_one(head: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pt"
    copy.write_bytes(head.read_bytes())
    assert create_method(NAME, weights=copy).loaded == (LoadedWeights(HEAD, find_entry(HEAD).licence, True),)


def test_only_what_is_found_meanwhile_is_recorded(head: Path) -> None:
    with recorded() as outer:
        find_weights(HEAD)
        with recorded() as inner:
            pass
        find_weights(HEAD)
    find_weights(HEAD)
    assert (len(outer), inner) == (1, [])


def test_the_backbone_brings_its_own(tmp_path: Path) -> None:
    base = load_backbone(TINY_CLIP)
    assert base.licences == {}
    assert base.provenance["activation_note"] == "configuration beside the weights"
    other = Backbone(base.model, base.tokenizer, "x", "y", base.mean, base.std, licences={"clip": "MIT"})
    method = create_method("clip-dinoiser", backbone=base)
    assert method.licences == {}  # the embedded heads are ours: nothing of the catalogue was loaded
    assert create_method("sclip", backbone=other).licences == {"clip": "MIT"}


def test_parts_are_checked_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    (tmp_path / "x.pt").touch()
    check_parts("sclip", TINY_CLIP, None)
    check_parts("sclip", "ViT-B/16", tmp_path / "x.pt")
    check_parts("tcl", None, tmp_path / "x.pt")
    check_parts("sclip", None, None, allow_download=True)
    for method, backbone, given, what in (
        ("sclp", TINY_CLIP, None, "did you mean sclip"),
        ("sclip", None, tmp_path / "x.pt", "--backbone ViT-B-16-quickgelu"),
        ("sclip", None, None, "not on this machine"),
        ("sclip", "ViT-B-16/openia", None, "did you mean openai"),
        ("tcl", "ViT-B-16", None, "leave out --backbone"),
    ):
        with pytest.raises(UserError, match=what):
            check_parts(method, backbone, given)
