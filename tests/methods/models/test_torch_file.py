"""Checkpoints of torch, read as data: nothing of a file runs, and its tensors are those that torch reads."""

import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ovss.methods import UserError
from ovss.methods.models.checkpoints import read_tensors
from ovss.methods.models.safe_unpickle import Made, Named, Persistent, read_pickle
from ovss.methods.models.torch_file import open_torch_file

# ---- pickles as data


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_what_pickle_reads(protocol: int) -> None:
    shared = [1, 2]
    value = {
        "numbers": [0, -1, 255, 65535, 1 << 40, -(1 << 90), 2.5, float("inf")],
        "texts": ["", "ä" * 300, "a\nb\\"],
        "nothing": None,
        "truths": (True, False),
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        (1, "key"): {3: {}, None: [], 2.5: ()},
        "twice": [shared, shared],
        "ordered": OrderedDict(b=1, a=2),
        "long": list(range(3000)),
    }
    read = read_pickle(pickle.dumps(value, protocol))
    assert read == value
    assert list(read["ordered"]) == ["b", "a"]
    assert read["twice"][0] is read["twice"][1]


@pytest.mark.parametrize("protocol", range(3, 6))
def test_bytes(protocol: int) -> None:
    assert read_pickle(pickle.dumps([b"", b"\0\n" * 200], protocol)) == [b"", b"\0\n" * 200]


class Config:
    """A class of the file."""

    def __init__(self) -> None:
        raise AssertionError("built")

    def __setstate__(self, state: object) -> None:
        raise AssertionError("filled")


@pytest.mark.parametrize("protocol", range(6))
def test_objects_become_inert(protocol: int) -> None:
    config = Config.__new__(Config)
    config.__dict__ = {"lr": 0.1, "nested": {"a": [1]}}
    read = read_pickle(pickle.dumps(config, protocol))
    assert isinstance(read, Made)
    assert read.state == {"lr": 0.1, "nested": {"a": [1]}}
    named = read.callee if protocol > 1 else read.arguments[0]
    assert named == Named(__name__, "Config")
    table = read_pickle(pickle.dumps(defaultdict(list, a=[1]), protocol))
    assert (table.callee, table.items) == (Named("collections", "defaultdict"), {"a": [1]})
    assert isinstance(read_pickle(pickle.dumps({1, 2}, protocol)), Made)


def trace(folder: Path) -> Path:
    return folder / "trace"


def attacks(folder: Path) -> dict[str, bytes]:
    """Pickles each of which leaves a trace when it runs.  All were tried with ``pickle.loads``: see below."""
    command, code = f"touch {trace(folder)}", f"open({str(trace(folder))!r}, 'w').close()"
    text = b"X" + struct.pack("<I", len(command)) + command.encode()
    body = b"X" + struct.pack("<I", len(code)) + code.encode()
    return {
        "os.system": b"cposix\nsystem\n" + text + b"\x85R.",
        "exec": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93" + body + b"\x85R.",
        "eval": b"c__builtin__\neval\n" + b"X" + struct.pack("<I", len(code)) + code.encode() + b"\x85R.",
        "instance": b"(" + text + b"iposix\nsystem\n.",
        "object": b"(cposix\nsystem\n" + text + b"o.",
        "in a list": b"](cposix\nsystem\n" + text + b"\x85Re.",
        "as a key": b"}cposix\nsystem\n" + text + b"\x85RNs.",
        "dropped": b"cposix\nsystem\n" + text + b"\x85R0N.",
        "as a persistent id": b"cposix\nsystem\n" + text + b"\x85RQ.",
        "through getattr": b"cbuiltins\ngetattr\n(cos\n__dict__\nX\x03\0\0\0gettR"
        + b"X\x06\0\0\0system\x85R"
        + text
        + b"\x85R.",
    }


@pytest.mark.parametrize("name", list(attacks(Path("x"))))
def test_nothing_runs(tmp_path: Path, name: str) -> None:
    content = attacks(tmp_path)[name]
    read_pickle(content)
    assert not trace(tmp_path).exists()

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: object) -> object:
            return pid

    import io

    try:
        Unpickler(io.BytesIO(content)).load()
    except TypeError:
        assert name == "as a persistent id" or trace(tmp_path).exists()
    assert trace(tmp_path).exists()  # so it is an attack


class Hook:
    """Calls ``function`` with ``arguments`` when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("new", [True, False])
def test_nothing_of_a_checkpoint_runs(tmp_path: Path, new: bool) -> None:
    hooks = [Hook(os.system, f"touch {trace(tmp_path)}"), Hook(os.mkdir, str(trace(tmp_path))), Hook(eval, "1/0")]
    content = {"model": {"a": torch.ones(3), "hook": hooks[0]}, "config": hooks[1], "optimizer": {"state": hooks}}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    read = read_tensors(tmp_path / "x.pth", nests=("model",))
    assert list(read) == ["a"] and read["a"].tolist() == [1, 1, 1]
    assert not trace(tmp_path).exists()
    assert "posix" in sys.modules  # it would have been found


def test_no_module_of_a_file_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing a module runs it, and a file may name any."""
    (tmp_path / "mine_of_the_file.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    read = read_pickle(b"cmine_of_the_file\nThing\n)R.")
    assert read.callee == Named("mine_of_the_file", "Thing")
    assert "mine_of_the_file" not in sys.modules


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"N",
        b"\x80\x02",
        b"]a.",
        b"(.",
        b"t.",
        b"h\x07.",
        b"Nb.",
        b"N]b.",
        b"](]]s.",
        b"}]Ns.",  # a list as a key
        b"}((NtNtNs.",  # a tuple in a tuple as a key
        b"\x82\x01.",  # the registry of extensions
        b"\x97.",  # a buffer from outside
        b"X\xff\xff\xff\x7fabc.",
        b"\x8e" + b"\xff" * 8 + b".",
        b"NNb.",
    ],
)
def test_damaged_pickles(content: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        read_pickle(content)


def test_deep_nesting_is_no_recursion() -> None:
    assert read_pickle(b"N" + b"\x85" * 50_000 + b".")[0]
    with pytest.raises(pickle.UnpicklingError, match="as a key"):
        read_pickle(b"}N" + b"\x85" * 50_000 + b"Ns.")  # hashing it would end the process


def test_a_file_is_left_behind_the_end(tmp_path: Path) -> None:
    (tmp_path / "two").write_bytes(pickle.dumps(1) + pickle.dumps([2]))
    with (tmp_path / "two").open("rb") as file:
        assert [read_pickle(file), read_pickle(file)] == [1, [2]]
    assert read_pickle(b"Pkey\n.") == Persistent("key")


# ---- tensors


def tensors() -> dict[str, Any]:
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    dtypes = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8)
    many = {str(d): (10 * torch.randn(3)).to(d) for d in (*dtypes, torch.uint8, torch.bool)}
    return {
        "plain": base,
        "part": base[2:5, 1:3],
        "turned": base.T,
        "scalar": torch.tensor(7.0),
        "empty": torch.empty(0, 4),
        "parameter": nn.Parameter(torch.randn(2, 2)),
        "buffer": nn.Buffer(torch.randn(2)),
        **many,
    }


@pytest.mark.parametrize("new", [True, False])
def test_tensors_are_those_that_torch_reads(tmp_path: Path, new: bool) -> None:
    path = tmp_path / "x.pt"
    torch.save(tensors(), path, _use_new_zipfile_serialization=new)
    ours, theirs = read_tensors(path), torch.load(path, weights_only=True)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name
    assert ours["part"].stride() == (5, 1)


class Marked(nn.Parameter):
    """A parameter with attributes of its own, as some libraries make them."""


def test_parameters_with_attributes_and_subclasses(tmp_path: Path) -> None:
    attributed = nn.Parameter(torch.ones(2))
    attributed.partition = "x"  # type: ignore[attr-defined]
    torch.save({"a": attributed, "b": torch.zeros(2).as_subclass(Marked)}, tmp_path / "x.pt")
    read = read_tensors(tmp_path / "x.pt")
    assert read["a"].tolist() == [1, 1] and read["b"].tolist() == [0, 0]
    assert type(read["b"]) is Tensor


def test_a_kind_that_is_not_read_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="_rebuild_sparse_tensor, which is not read"):
        read_tensors(tmp_path / "x.pt")


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(2)}, "optimizer": {"m": torch.zeros(3)}}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(tmp_path / "y.pt", "w") as new:
        for name in old.namelist():
            if not name.endswith("data/1"):
                new.writestr(name, old.read(name))
    assert read_tensors(tmp_path / "y.pt", nests=("model",))["a"].tolist() == [1, 1]
    with pytest.raises(UserError, match="data/1 is missing"):
        read_tensors(tmp_path / "y.pt", nests=("optimizer",))


def archive(
    path: Path, arguments: tuple[Any, ...], storage: bytes = bytes(16), compress: bool = False, **named: Any
) -> Path:
    """A zip file as of torch.save with one tensor, made by ``arguments`` (key, type, count, offset, size, stride)."""
    key, kind, count, offset, size, stride = arguments

    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            function = getattr(torch._utils, named.get("function", "_rebuild_tensor_v2"))
            return function, (Reference(), offset, size, stride, False, OrderedDict())

    class Reference:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return named.get("pid", ("storage", kind, key, "cpu", count)) if isinstance(obj, Reference) else None

    import io

    sink = io.BytesIO()
    Pickler(sink, 2).dump({"a": Call()})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
        file.writestr("x/data.pkl", sink.getvalue())
        file.writestr("x/data/0", storage)
        file.writestr("x/byteorder", named.get("order", "little"))
    return path


GOOD = ("0", torch.FloatStorage, 4, 0, (2, 2), (2, 1))


def test_the_handmade_file_is_read(tmp_path: Path) -> None:
    storage = np.arange(4, dtype=np.float32).tobytes()
    assert read_tensors(archive(tmp_path / "x.pt", GOOD, storage))["a"].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("0", torch.FloatStorage, 4, 1, (2, 2), (2, 1)), {}),  # one element behind the end
        (("0", torch.FloatStorage, 4, 0, (2, 2), (3, 1)), {}),
        (("0", torch.FloatStorage, 4, 0, (3, 2), (2, 1)), {}),
        (("0", torch.FloatStorage, 4, -1, (2,), (1,)), {}),
        (("0", torch.FloatStorage, 4, 3, (2,), (-1,)), {}),
        (("0", torch.FloatStorage, 4, 0, (-2, -2), (1, 1)), {}),
        (("0", torch.FloatStorage, 4, 0, (1 << 40,), (0,)), {}),  # a terabyte out of four numbers
        (("0", torch.FloatStorage, 4, 0, (1 << 62, 1 << 62), (0, 0)), {}),
        (("0", torch.FloatStorage, 4, 0, (2, 2), (1,)), {}),
        (("0", torch.FloatStorage, 4, 0, ("2",), (1,)), {}),
        (("0", torch.FloatStorage, 4, 0, 4, 1), {}),
        (("0", torch.FloatStorage, 5, 0, (5,), (1,)), {}),  # more than its bytes
        (("0", torch.FloatStorage, 1 << 60, 0, (4,), (1,)), {}),
        (("0", torch.FloatStorage, "4", 0, (4,), (1,)), {}),
        (("../../../etc/passwd", torch.FloatStorage, 4, 0, (4,), (1,)), {}),
        (("0", dict, 4, 0, (4,), (1,)), {}),
        (GOOD, {"pid": "0"}),
        (GOOD, {"pid": ("storage", ("storage", torch.FloatStorage, "0", "cpu", 4), "0", "cpu", 4)}),
        (GOOD, {"pid": ("module", torch.FloatStorage, "0", "cpu", 4)}),
        (GOOD, {"order": "big"}),
        (GOOD, {"function": "_rebuild_meta_tensor_no_storage"}),
    ],
)
def test_storages_out_of_bounds_and_odd_references(tmp_path: Path, arguments: tuple[Any, ...], named: Any) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_tensors(archive(tmp_path / "x.pt", arguments, **named))


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    """A megabyte of zeros would become a gigabyte."""
    with pytest.raises(UserError, match="compressed"):
        read_tensors(archive(tmp_path / "x.pt", GOOD, compress=True))


# ---- files of other people's training scripts


class CfgNode(dict[str, Any]):
    """As yacs has it: a dictionary with attributes."""


class DictConfig:
    """As OmegaConf has it: nodes that know their parents, so the object is in itself."""


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("library", ["yacs.config", "omegaconf.dictconfig"])
def test_checkpoints_with_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, new: bool
) -> None:
    """``save_checkpoint`` of GroupViT and TCL; the configuration's library is absent when it is read."""
    module = ModuleType(library)
    config: Any
    if library.startswith("yacs"):
        monkeypatch.setattr(CfgNode, "__module__", library)
        module.CfgNode = CfgNode  # type: ignore[attr-defined]
        config = CfgNode(TRAIN=CfgNode(LR=0.1, NAMES=["a"]))
        config.__dict__["__immutable__"] = True
    else:
        monkeypatch.setattr(DictConfig, "__module__", library)
        module.DictConfig = DictConfig  # type: ignore[attr-defined]
        config, child = DictConfig(), DictConfig()
        child.__dict__ = {"_parent": config, "_content": {"lr": 0.1}}
        config.__dict__ = {"_parent": None, "_content": {"train": child}}
    state = OrderedDict(a=torch.arange(3.0))
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    content = {"model": state, "optimizer": {"state": {0: {"m": torch.ones(3)}}}, "epoch": 29, "config": config}
    with monkeypatch.context() as there:
        for name in (library.partition(".")[0], library):
            there.setitem(sys.modules, name, module)
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    assert library not in sys.modules
    assert read_tensors(tmp_path / "x.pth", nests=("model",))["a"].tolist() == [0, 1, 2]


# ---- TorchScript


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(2, 3).half()
        self.register_buffer("count", torch.arange(2))

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Inner(), Inner())
        self.scale = nn.Parameter(torch.tensor(4.6))
        self.size = 224

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x) * self.scale


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_archives(tmp_path: Path, how: str) -> None:
    torch.manual_seed(1)
    model = Outer().eval()
    made = torch.jit.script(model) if how == "script" else torch.jit.trace(model, torch.ones(1))
    torch.jit.save(made, tmp_path / "x.pt")
    read, wanted = read_tensors(tmp_path / "x.pt"), model.state_dict()
    assert read.keys() == wanted.keys()
    assert all(torch.equal(read[k], wanted[k]) and read[k].dtype == wanted[k].dtype for k in wanted)
    with open_torch_file(tmp_path / "x.pt") as file:
        assert file.is_script


@pytest.mark.parametrize("kind", ["itself", "many"])
def test_modules_without_end(tmp_path: Path, kind: str) -> None:
    """A module that is in itself; 60 modules each of which is twice in the next: 2 ** 60 names."""
    if kind == "itself":
        content = b"cm\nM\n)\x81q\x00}X\x01\0\0\0ah\x00sb."
    else:
        step = b"q\x000cm\nM\n)\x81}(X\x01\0\0\0ah\x00X\x01\0\0\0bh\x00ub"
        content = b"cm\nM\n)\x81}b" + step * 60 + b"."
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
        file.writestr("x/data.pkl", content)
        file.writestr("x/constants.pkl", b"N.")
    with pytest.raises(UserError, match="have no end"):
        read_tensors(tmp_path / "x.pt")
