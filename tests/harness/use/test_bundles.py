"""Export and import: the same counts elsewhere, nothing of the machine in it, and nothing in but what is whole."""

import hashlib
import io
import json
import os
import platform
import re
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ovss.harness import every_pair, leaderboard
from ovss.harness import run as run_pairs
from ovss.harness.report.origin import read_origin
from ovss.harness.runs.run import Run
from ovss.harness.runs.sealed import seal, unseal
from ovss.harness.use import bring_in
from ovss.harness.use.bring_in import import_runs
from ovss.harness.use.export import export_runs
from ovss.harness.use.private import refuse_private, without_places
from ovss.methods import UserError

from .remaking import remake

Members = dict[str, bytes]
HOME, USER, HOST = "/home/zoe-quill", "zoe-quill", "heron-17"


def results_of(made: Run) -> Path:
    return made.folder.parent.parent


@pytest.fixture(scope="module")
def bundle(made: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_runs([str(made.folder)], tmp_path_factory.mktemp("bundle") / "ours.zip").path


def members_of(bundle: Path) -> Members:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, members: Members, recorded: bool = True) -> Path:
    """A zip of the members; with ``recorded`` its record says what is in it."""
    if recorded:
        told = unseal(members["bundle.json"], path)
        told["members"] = {
            name: {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
            if name != "bundle.json"
        }
        members = members | {"bundle.json": seal(told)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def name_of(members: Members, end: str) -> str:
    (name,) = (n for n in members if n.endswith(end) and (end != ".parquet" or "/parts/" in n))
    return name


# ---- there and back


def test_counts_identity_and_summary_are_the_same_elsewhere(made: Run, bundle: Path, tmp_path: Path) -> None:
    (one,) = import_runs(bundle, tmp_path)
    assert one.state == "imported" and one.finished.folder == tmp_path / "runs" / made.folder.name
    assert one.finished.plan.digest == made.plan().digest
    assert one.finished.summary == made.finished().summary
    for name in ("counts.parquet", "metrics.json"):
        assert (one.finished.folder / name).read_bytes() == (made.folder / name).read_bytes()
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [made.folder.name]  # nothing on its way is left


def test_a_bundle_of_an_imported_run_has_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    (one,) = import_runs(bundle, tmp_path)
    again = export_runs([one.finished.name], tmp_path / "again.zip", tmp_path)
    assert again.path.read_bytes() == bundle.read_bytes()
    assert again.sha256 == hashlib.sha256(bundle.read_bytes()).hexdigest()


def test_what_is_here_already_stays(bundle: Path, tmp_path: Path) -> None:
    import_runs(bundle, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    (again,) = import_runs(bundle, tmp_path, name="another")
    assert again.state == "already here"
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.name != "runs"} == {
        p: t for p, t in before.items() if p.name != "runs"
    }


def test_an_imported_run_goes_on_here_and_fresh_forgets_where_it_came_from(bundle: Path, tmp_path: Path) -> None:
    (one,) = import_runs(bundle, tmp_path)
    pairs = every_pair(["clip"], ["shapes"])
    (longer,) = run_pairs(pairs, tmp_path, limit=4)
    assert longer.folder == one.finished.folder and len(longer.frame) == 4
    assert len(list(longer.run.parts_folder.glob("part-*"))) == 2  # three images came with the bundle
    assert read_origin(longer.folder) is not None
    run_pairs(pairs, tmp_path, limit=1, fresh=True)
    assert read_origin(longer.folder) is None


def test_the_leaderboard_says_where_a_run_is_from_and_what_it_ran_on(bundle: Path, tmp_path: Path) -> None:
    import_runs(bundle, tmp_path, name="lab|7")
    found = leaderboard(tmp_path)
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()[:8]
    assert found.rows[0].origin == f"lab|7 {digest}" and found.rows[0].device.startswith("cpu (")
    assert "| run | imported from |" in found.markdown and f"lab\\|7 {digest}" in found.markdown


def test_the_leaderboard_of_our_own_runs_has_no_such_column(made: Run) -> None:
    found = leaderboard(results_of(made))
    assert found.rows[0].origin == "" and "imported from" not in found.markdown


# ---- nothing of the machine


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user and a machine with names that stand nowhere by chance."""
    monkeypatch.setenv("HOME", HOME)
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, USER)
    monkeypatch.setattr(platform, "node", lambda: f"{HOST}.example.org")


def everything_in(name: str, content: bytes) -> str:
    """Bytes as they are, and what a parquet file holds packed: metadata and every value."""
    told = content.decode("latin-1")
    if name.endswith(".parquet"):
        table = pq.read_table(io.BytesIO(content))
        told += str(table.schema.metadata) + str(table.select(["image", "content"]).to_pylist())
    return told


def test_no_member_tells_whose_machine_it_was(made: Run, tmp_path: Path, somebody: None) -> None:
    spec = {
        "weights": f"{HOME}/models/vit.safetensors",
        "data_root": f"{HOME}/data",
        "dataset": f"{HOME}/data/mine.toml",
        "options": {"masks": f"{HOME}/masks", "more": "~zoe-quill/more", "pad": True},
    }
    environment = {"host": HOST, "user": USER, "folder": HOME}
    run = remake(made, tmp_path, spec=spec, environment=environment)
    words = (HOME, "/home", "zoe", USER, HOST, "heron")
    before = "".join(everything_in(p.name, p.read_bytes()) for p in run.folder.rglob("*") if p.is_file())
    assert all(word in before for word in words)
    members = members_of(export_runs([run.folder.name], tmp_path / "b.zip", tmp_path).path)
    found = {name: everything_in(name, content) for name, content in members.items()}
    assert {(name, word) for name, text in found.items() for word in words if word in name + text} == set()
    (one,) = import_runs(tmp_path / "b.zip", tmp_path / "elsewhere")
    assert one.finished.plan.digest == run.plan().digest
    assert one.finished.plan.spec.dataset == "mine.toml" and one.finished.plan.spec.options == {
        "masks": "masks",
        "more": "more",
        "pad": True,
    }
    assert one.finished.plan.spec.weights is None and one.finished.plan.spec.data_root is None
    assert one.finished.manifest.environment == made.finished().manifest.environment


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("/srv/masks/voc", "/srv/"),
        ("masks in ~/masks", "~/"),
        (r"D:\masks", "D:\\"),
        (f"file {USER}.safetensors", USER),
        (f"made on {HOST}", HOST),
    ],
)
def test_what_decides_numbers_is_refused_rather_than_changed(made: Run, somebody: None, text: str, held: str) -> None:
    plan = made.plan()
    private = plan.model_copy(update={"identity": {**plan.identity, "method": {"masks": text}}})
    with pytest.raises(UserError, match=rf"its identity\.method\.masks holds {re.escape(repr(held))}"):
        without_places(private)


@pytest.mark.parametrize(
    "text", ["a / b / c", "https://github.com/a/b/c.py", "train/val/test", "n/a", "clip", "img_dir/leftImg8bit", "C: x"]
)
def test_what_is_no_place_is_not_refused(somebody: None, text: str) -> None:
    refuse_private({"text": [text]}, "run")


def test_a_class_may_have_the_name_of_the_user(somebody: None) -> None:
    refuse_private({"record": {"classes": [USER, "sky"]}, "ids": [HOST]}, "run")
    with pytest.raises(UserError, match=r"its record\.title holds '/srv/'"):
        refuse_private({"record": {"title": "of /srv/data"}}, "run")


# ---- only what is whole


def foreign(change: Callable[[Members], Members]) -> Any:
    return pytest.param(change, id=change.__name__)


def a_path_upwards(members: Members) -> Members:
    return members | {"../outside": b"x"}


def a_path_upwards_in_a_run(members: Members) -> Members:
    return members | {"runs/../../plan.json": b"x"}


def a_path_from_the_root(members: Members) -> Members:
    return members | {"/tmp/outside": b"x"}


def a_hidden_run(members: Members) -> Members:
    return members | {"runs/.import-x/plan.json": b"x"}


def a_file_of_no_run(members: Members) -> Members:
    return members | {name_of(members, "plan.json").replace("plan.json", "run.sh"): b"x"}


@pytest.mark.parametrize(
    "change",
    [
        foreign(c)
        for c in (a_path_upwards, a_path_upwards_in_a_run, a_path_from_the_root, a_hidden_run, a_file_of_no_run)
    ],
)
def test_what_is_no_file_of_a_run_is_refused(
    bundle: Path, tmp_path: Path, change: Callable[[Members], Members]
) -> None:
    hostile = packed(tmp_path / "b.zip", change(members_of(bundle)))
    with pytest.raises(UserError, match="which is no file of a run: nothing of it was unpacked"):
        import_runs(hostile, tmp_path / "results")
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p != hostile]


def test_links_are_refused(bundle: Path, tmp_path: Path) -> None:
    members = members_of(bundle)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK if name.endswith("plan.json") else stat.S_IFREG) << 16
            archive.writestr(info, b"/etc/passwd" if name.endswith("plan.json") else content)
    with pytest.raises(UserError, match="a link or no plain file"):
        import_runs(tmp_path / "b.zip", tmp_path / "results")


def test_a_name_twice_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = packed(tmp_path / "b.zip", members_of(bundle))
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(name_of(members_of(bundle), "plan.json"), b"{}")
    with pytest.raises(UserError, match="two members of one name"):
        import_runs(path, tmp_path / "results")


@pytest.mark.parametrize("end", ["plan.json", "manifest.json", "metrics.json", "counts.parquet", ".parquet"])
def test_a_changed_byte_is_found(bundle: Path, tmp_path: Path, end: str) -> None:
    """By the checksum of the member; and with a record that was made to fit, by the file's own."""
    members = members_of(bundle)
    name = name_of(members, end)
    content = bytearray(members[name])
    content[len(content) // 2] ^= 1
    changed = members | {name: bytes(content)}
    with pytest.raises(UserError, match="does not fit its checksum"):
        import_runs(packed(tmp_path / "b.zip", changed, recorded=False), tmp_path / "results")
    with pytest.raises(UserError):
        import_runs(packed(tmp_path / "c.zip", changed), tmp_path / "results")
    assert list((tmp_path / "results" / "runs").iterdir()) == []


@pytest.mark.parametrize("end", ["plan.json", "manifest.json", "metrics.json", "counts.parquet", ".parquet"])
def test_a_missing_file_is_found(bundle: Path, tmp_path: Path, end: str) -> None:
    members = members_of(bundle)
    del members[name_of(members, end)]
    for recorded in (False, True):
        with pytest.raises(UserError):
            import_runs(packed(tmp_path / f"{recorded}.zip", members, recorded), tmp_path / "results")


def test_a_cut_file_and_another_file_are_no_bundles(bundle: Path, tmp_path: Path) -> None:
    whole = bundle.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"text"):
        (tmp_path / "b.zip").write_bytes(content)
        with pytest.raises(UserError, match=r"b\.zip is no whole bundle"):
            import_runs(tmp_path / "b.zip", tmp_path / "results")
    with pytest.raises(UserError, match="cannot be imported"):
        import_runs(tmp_path / "absent.zip", tmp_path / "results")
    packed(tmp_path / "other.zip", {"a": b"b"}, recorded=False)
    with pytest.raises(UserError, match="no file of a run"):
        import_runs(tmp_path / "other.zip", tmp_path / "results")


def test_another_version_is_told(bundle: Path, tmp_path: Path) -> None:
    members = members_of(bundle)
    told = unseal(members["bundle.json"], bundle) | {"schema_version": 2}
    path = packed(tmp_path / "b.zip", members | {"bundle.json": seal(told)}, recorded=False)
    with pytest.raises(UserError, match="schema version 2, this version of ovss-bench reads 1"):
        import_runs(path, tmp_path / "results")


# ---- bombs


def test_a_file_larger_than_its_plan_allows_is_not_unpacked(bundle: Path, tmp_path: Path) -> None:
    members = members_of(bundle)
    members[name_of(members, "counts.parquet")] = bytes(20_000_000)  # 20 kB in the zip
    with pytest.raises(UserError, match=r"20000000 bytes, more than the \d+ that rows of its plan can take"):
        import_runs(packed(tmp_path / "b.zip", members), tmp_path / "results")


def test_a_parquet_file_of_too_many_rows_is_not_read(bundle: Path, tmp_path: Path) -> None:
    members = members_of(bundle)
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array(["x"] * 1_000_000)}), sink, compression="zstd")
    members[name_of(members, "counts.parquet")] = sink.getvalue()
    with pytest.raises(UserError, match="1000000 rows for 300 images"):
        import_runs(packed(tmp_path / "b.zip", members), tmp_path / "results")


def test_a_wide_parquet_file_is_not_read(bundle: Path, tmp_path: Path) -> None:
    """Few rows, each of which unpacks to a megabyte."""
    members = members_of(bundle)
    sink = io.BytesIO()
    rows = pa.array([[k] * 1_000_000 for k in range(9)])
    pq.write_table(pa.table({"tp": rows}), sink, compression="zstd", use_dictionary=False)
    assert len(sink.getvalue()) < 100_000
    members[name_of(members, "counts.parquet")] = sink.getvalue()
    with pytest.raises(UserError, match=r"unpacked, has \d+ bytes, more than"):
        import_runs(packed(tmp_path / "b.zip", members), tmp_path / "results")


def test_sizes_beyond_the_caps_are_told(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, said in (
        ("MOST_BYTES", 1000, "would unpack to more than"),
        ("MOST_MEMBERS", 3, "more than the 3 that are read"),
        ("MOST_JSON_BYTES", 100, "it is not unpacked"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(bring_in, name, value)
            with pytest.raises(UserError, match=said):
                import_runs(bundle, tmp_path)


# ---- runs


def test_a_plan_that_is_not_its_identitys_is_refused(bundle: Path, tmp_path: Path) -> None:
    members = members_of(bundle)
    name = name_of(members, "plan.json")
    told = unseal(members[name], bundle)
    told["ids"][0] = told["ids"][0] + "x"
    members[name] = seal(told)
    with pytest.raises(UserError, match="its plan is not the one that its identity names"):
        import_runs(packed(tmp_path / "b.zip", members), tmp_path / "results")


def test_a_run_under_another_name_is_refused(made: Run, bundle: Path, tmp_path: Path) -> None:
    members = {name.replace(made.folder.name, "other"): c for name, c in members_of(bundle).items()}
    members["bundle.json"] = seal(unseal(members["bundle.json"], bundle) | {"runs": ["other"]})
    with pytest.raises(UserError, match=f"it has the plan of {made.folder.name}"):
        import_runs(packed(tmp_path / "b.zip", members), tmp_path / "results")


def two_runs(made: Run, folder: Path) -> tuple[Path, list[Run]]:
    runs = [remake(made, folder, identity={"source_hash": letter * 16}) for letter in "ab"]
    return export_runs([r.folder.name for r in runs], folder / "two.zip", folder).path, runs


def test_a_run_that_is_here_with_other_bytes_stops_all(made: Run, tmp_path: Path) -> None:
    bundle, runs = two_runs(made, tmp_path / "theirs")
    here = remake(made, tmp_path / "ours", identity={"source_hash": "b" * 16}, images=2)
    before = (here.folder / "counts.parquet").read_bytes()
    with pytest.raises(UserError, match="is there with other bytes"):
        import_runs(bundle, tmp_path / "ours")
    assert [p.name for p in (tmp_path / "ours" / "runs").iterdir()] == [here.folder.name] == [runs[1].folder.name]
    assert (here.folder / "counts.parquet").read_bytes() == before


def test_a_move_that_fails_takes_the_others_back(made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, runs = two_runs(made, tmp_path / "theirs")
    rename = os.rename

    def fail_at_the_second(source: Path, target: Path) -> None:
        if target.name == runs[1].folder.name:
            raise OSError(28, "No space left on device", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_at_the_second)
    with pytest.raises(UserError, match="No space left on device"):
        import_runs(bundle, tmp_path / "ours")
    assert list((tmp_path / "ours" / "runs").iterdir()) == []


# ---- export


def test_what_is_not_merged_is_not_exported(made: Run, tmp_path: Path) -> None:
    run = remake(made, tmp_path, merged=False)
    with pytest.raises(UserError, match="Finish it with `bench run`"):
        export_runs([str(run.folder)], tmp_path / "b.zip", tmp_path)
    assert not (tmp_path / "b.zip").exists()


def test_a_run_twice_is_refused(made: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is named twice"):
        export_runs([made.folder.name, str(made.folder)], tmp_path / "b.zip", results_of(made))


def test_a_failed_export_leaves_what_was_there(made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b.zip").write_bytes(b"before")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(UserError, match="could not be written"):
        export_runs([str(made.folder)], tmp_path / "b.zip")
    assert [p.name for p in tmp_path.iterdir()] == ["b.zip"] and (tmp_path / "b.zip").read_bytes() == b"before"


def test_the_record_says_what_is_in_it(bundle: Path) -> None:
    members = members_of(bundle)
    told = json.loads(members.pop("bundle.json"))
    assert {n: m["sha256"] for n, m in told["members"].items()} == {
        n: hashlib.sha256(c).hexdigest() for n, c in members.items()
    }
    assert {n: m["size_bytes"] for n, m in told["members"].items()} == {n: len(c) for n, c in members.items()}
