"""Options as data: what is wrong is told before anything is loaded, with what is allowed and what it means."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, model_validator

from ovss.methods import UserError, create_method, find_method, list_methods
from ovss.methods import registry as registry_module
from ovss.methods.core.options import Options, describe_options, options_type, read_options
from ovss.methods.registry import check_options


class Example(Options):
    """Made up."""

    mode: Literal["fast", "exact"] | bool = Field("exact", description="how it is done")
    share: float = Field(0.5, ge=0, lt=1, description="part of the whole")
    count: int | None = Field(None, gt=0, description="how many; nothing: all")
    file: str | None = Field(None, exclude=True, description="a file whose checksum is elsewhere")

    @model_validator(mode="after")
    def _fits(self) -> "Example":
        if self.mode == "fast" and self.count:
            raise ValueError("mode=fast knows no count: leave it out")
        return self


class Owner:
    options: Example


class Below(Owner):
    pass


def test_the_record_of_a_class_is_what_it_annotates() -> None:
    assert options_type(Owner) is options_type(Below) is Example
    assert options_type(object) is Options


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"share": 1.0}, "x: option share is 1.0: allowed is a number from 0 below 1 (part of the whole)"),
        ({"share": "much"}, "x: option share is 'much': allowed is a number from 0 below 1 (part of the whole)"),
        ({"share": True}, "x: option share is True: allowed is a number"),
        ({"share": float("nan")}, "x: option share is nan: allowed is a number"),
        ({"count": 0}, "x: option count is 0: allowed is a whole number above 0 or nothing (how many; nothing: all)"),
        ({"count": 2.5}, "x: option count is 2.5: allowed is a whole number above 0 or nothing"),
        ({"mode": "slow"}, "x: option mode is 'slow': allowed is fast, exact or true or false (how it is done)"),
        ({"shear": 1}, "x: there is no option 'shear'; did you mean share?"),
        ({"mode": "fast", "count": 2}, "x: mode=fast knows no count: leave it out"),
    ],
)
def test_what_is_wrong_is_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_options(Example, given, "x")
    assert str(caught.value).startswith(message), str(caught.value)


def test_no_option_at_all() -> None:
    with pytest.raises(UserError, match=r"x: there is no option 'pad'\.  It takes none"):
        read_options(Options, {"pad": 1}, "x")


def test_values_and_provenance() -> None:
    read = read_options(Example, {"share": 0, "file": "a.pt"}, "x")
    assert isinstance(read.share, float) and read.file == "a.pt"
    assert read.provenance == {"mode": "exact", "share": 0.0, "count": None}
    with pytest.raises(ValueError, match="frozen"):
        read.share = 0.1  # type: ignore[misc]


def test_options_in_words() -> None:
    rows = [(r.name, r.allowed, r.default, r.meaning) for r in describe_options(Example)]
    assert rows[:3] == [
        ("mode", "fast, exact or true or false", "exact", "how it is done"),
        ("share", "a number from 0 below 1", "0.5", "part of the whole"),
        ("count", "a whole number above 0 or nothing", "nothing", "how many; nothing: all"),
    ]


@pytest.mark.parametrize("name", list_methods(plugins=False))
def test_every_method_describes_its_options(name: str) -> None:
    kind = options_type(find_method(name))
    for row in describe_options(kind):
        assert row.meaning and row.allowed, (name, row.name)
    json.dumps(kind().provenance, allow_nan=False)


@pytest.mark.parametrize("name", list_methods(plugins=False))
def test_bad_values_of_every_option_are_refused(name: str) -> None:
    """A value that no field can take, for every field of every method."""
    method = find_method(name)
    for option in options_type(method).model_fields:
        with pytest.raises(UserError, match=f"method '{name}'.*option {option}"):
            check_options(method, {option: [["no such value"]]})


def test_nothing_is_loaded_for_wrong_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry_module, "load_backbone", lambda *given: pytest.fail("loaded"))
    with pytest.raises(UserError, match="pad"):
        create_method("sclip", backbone="ViT-B-16/openai", weights=tmp_path / "absent.pt", pad="sideways")
