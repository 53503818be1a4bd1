"""Checkpoint files: what is unwrapped, what is refused, and that hashes mean what they say."""

import argparse
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ovss.methods import UserError
from ovss.methods.models.checkpoints import check_keys, file_sha256, read_tensors, state_sha256

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(7)}


def save(folder: Path, content: Any, name: str = "weights.pt") -> Path:
    path = folder / name
    torch.save(content, path)
    return path


def assert_state(got: dict[str, Tensor]) -> None:
    assert got.keys() == STATE.keys()
    assert all(torch.equal(got[k], STATE[k]) and got[k].dtype == STATE[k].dtype for k in STATE)


def test_both_formats(tmp_path: Path) -> None:
    assert_state(read_tensors(save(tmp_path, STATE)))
    save_file(STATE, tmp_path / "weights.safetensors")
    assert_state(read_tensors(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "decoder", "teacher"])
def test_the_first_nest_that_the_file_has(tmp_path: Path, nest: str) -> None:
    path = save(tmp_path, {"epoch": 3, "other": {"b": torch.zeros(1)}, nest: STATE})
    assert_state(read_tensors(path, nests=("absent", nest, "other")))
    assert_state(read_tensors(save(tmp_path, STATE, "plain.pt"), nests=(nest,)))
    assert read_tensors(path) == {}  # no tensor outside the nests, and none is looked for


def test_prefixes_are_stripped_when_asked_in_order_and_only_in_front(tmp_path: Path) -> None:
    wrapped = {f"module.backbone.{k}": v for k, v in STATE.items()}
    path = save(tmp_path, wrapped)
    assert read_tensors(path).keys() == wrapped.keys()
    assert_state(read_tensors(path, prefixes=("module.", "backbone.")))
    kept = read_tensors(save(tmp_path, {"x.module.y": STATE["b"]}), prefixes=("module.",))
    assert list(kept) == ["x.module.y"]


def test_values_that_are_no_tensors_are_left_out(tmp_path: Path) -> None:
    assert_state(read_tensors(save(tmp_path, {**STATE, "epoch": 3, "name": "x", "nothing": None, "list": [1.0]})))


def test_the_command_line_beside_the_weights_is_no_obstacle(tmp_path: Path) -> None:
    path = save(tmp_path, {"teacher": STATE, "args": argparse.Namespace(lr=0.1, arch="vit_base")})
    assert_state(read_tensors(path, nests=("teacher",)))


def test_parameters_are_tensors(tmp_path: Path) -> None:
    path = save(tmp_path, {"weight": nn.Parameter(torch.ones(2))})
    assert read_tensors(path)["weight"].tolist() == [1.0, 1.0]


class Bomb:
    """Unpickling this would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("where", ["beside", "inside the command line", "among the weights"])
def test_code_beside_the_tensors_is_not_run(tmp_path: Path, where: str) -> None:
    bomb = Bomb(tmp_path / "trace")
    content: dict[str, Any] = {"teacher": dict(STATE)}
    if where == "among the weights":
        content["teacher"]["bomb"] = bomb
    else:
        content["extra"] = bomb if where == "beside" else argparse.Namespace(hook=bomb)
    assert_state(read_tensors(save(tmp_path, content), nests=("teacher",)))
    assert not (tmp_path / "trace").exists()


def test_code_in_the_place_of_the_weights_is_refused_and_not_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds a \w+\.mkdir, not a state dict"):
        read_tensors(save(tmp_path, {"teacher": Bomb(tmp_path / "trace")}), nests=("teacher",))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><html>not found</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 2689\n",
        b"\x89PNG\r\n\x1a\n" + bytes(60),
        b"PK\x03\x04" + bytes(60),
    ],
)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_files_that_are_something_else(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("new_format", [True, False])
def test_truncated_anywhere(tmp_path: Path, new_format: bool) -> None:
    path = tmp_path / "weights.pt"
    torch.save(STATE, path, _use_new_zipfile_serialization=new_format)
    assert_state(read_tensors(path))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 17):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cannot be read"):
            read_tensors(path)


def test_absent_and_not_a_dictionary(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.pt"):
        with pytest.raises(UserError, match="does not exist"):
            read_tensors(path)
    with pytest.raises(UserError, match="holds a list, not a state dict"):
        read_tensors(save(tmp_path, [torch.zeros(2)]))
    with pytest.raises(UserError, match="holds a NoneType, not a state dict"):
        read_tensors(save(tmp_path, {"decoder": None}), nests=("decoder",))


def test_two_tensors_of_one_name_are_not_chosen_from(tmp_path: Path) -> None:
    path = save(tmp_path, {"b": torch.zeros(1), "module.b": torch.ones(1)})
    with pytest.raises(UserError, match="holds b twice"):
        read_tensors(path, prefixes=("module.",))
    assert len(read_tensors(path)) == 2


def test_keys_that_do_not_fit_are_named_at_once() -> None:
    path = Path("some") / "file.pt"
    check_keys(path, STATE, {"a.weight": (2, 3), "b": ()})
    with pytest.raises(UserError) as caught:
        check_keys(path, STATE, {"a.weight": (3, 2), "c": (1,), "d": (2,)})
    assert str(caught.value) == (
        f"weights file {path} does not fit the model: missing c, d; not in the model: b; "
        "a.weight has shape (2, 3), the model (3, 2)"
    )
    with pytest.raises(UserError, match=r"missing k0, k1, k2, k3, k4 and 2 more$"):
        check_keys(path, STATE, {"a.weight": (2, 3), "b": (), **{f"k{i}": (1,) for i in range(7)}})


def test_hashes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 9000)  # more than two of the blocks that are read at a time
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    whole = state_sha256(STATE)
    assert whole == state_sha256(dict(reversed(STATE.items())))
    others = [
        {**STATE, "b": torch.tensor(8)},
        {**STATE, "b": torch.tensor(7.0)},
        {**STATE, "a.weight": STATE["a.weight"].view(3, 2)},
        {"a.weight": STATE["a.weight"], "c": STATE["b"]},
    ]
    assert len({whole, *map(state_sha256, others)}) == 5


def test_hash_for_old_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 9000)
    monkeypatch.delattr(hashlib, "file_digest", raising=False)
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
