"""What pydantic finds reaches users in our words, wherever it comes from."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, Field, ValidationError, model_validator

from ovss.datasets import DataError, read_record
from ovss.datasets.invalid import explain
from ovss.harness.protocol.protocol import load_protocol
from ovss.methods import UserError

HOUSES = Path(__file__).parents[2]


class Example(BaseModel):
    number: Annotated[int, Field(gt=0)] = 1
    name: str = ""

    @model_validator(mode="after")
    def _rule(self) -> "Example":
        if self.name == "wrong":
            raise ValueError("the name is wrong: choose another")
        return self


def test_where_and_what() -> None:
    with pytest.raises(ValidationError) as caught:
        Example.model_validate({"number": 0, "name": 3})
    text = explain(caught.value, "example")
    assert text.splitlines()[0] == "  number: Input should be greater than 0" and "  name: " in text
    with pytest.raises(ValidationError) as caught:
        Example.model_validate({"name": "wrong"})
    assert explain(caught.value, "example", "; ", "") == "example: the name is wrong: choose another"
    assert explain(KeyError("case"), "example") == "'case'"


def test_many_findings_are_cut() -> None:
    with pytest.raises(ValidationError) as caught:
        _many()
    assert explain(caught.value, "list").splitlines()[-1] == "  ... and 10 more"


def _many() -> None:
    class Many(BaseModel):
        numbers: list[int]

    Many.model_validate({"numbers": ["x"] * 30})


def test_messages_of_records_and_protocols(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('key = "a b"\ntitle = "x"\nimages = "i"\nlabels = "l"\nclasses = []\n')
    with pytest.raises(DataError) as record:
        read_record(tmp_path / "bad.toml")
    with pytest.raises(UserError) as protocol:
        load_protocol("tiny").changed(upsample="labels", refine="pamr")
    for text in map(str, (record.value, protocol.value)):
        assert "Value error" not in text and "errors.pydantic.dev" not in text


def test_nobody_shows_pydantics_own_words() -> None:
    """Messages are taken by ``explain`` and ``message_of`` alone, and options have a line of their own."""
    found = [
        f"{path.relative_to(HOUSES)}"
        for folder in ("datasets", "harness", "methods")
        for path in (HOUSES / folder).rglob("*.py")
        if '["msg"]' in path.read_text() or "['msg']" in path.read_text()
    ]
    assert sorted(found) == ["datasets/invalid.py", "methods/core/options.py"]
