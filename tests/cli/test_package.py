"""The wheel: what is in it, that it runs from an empty folder, and whose ``datasets`` is found."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PARENT_SITE = Path(sysconfig.get_path("purelib"))
HF_IS_INSTALLED = (PARENT_SITE / "datasets").exists()
PROBE = """
import importlib.util
import json
import os
import sys

from ovss.methods.maskclip import MaskCLIP


class Probe(MaskCLIP):
    # MaskCLIP that writes down, from inside a run, whose `datasets` an import finds.
    def score_windows(self, seen, words):
        import datasets
        import ovss.datasets
        found = {"file": datasets.__file__, "version": datasets.__version__}
        with open(os.environ["PROBE_OUT"], "w") as file:
            json.dump({"datasets": found, "ours": ovss.datasets.__file__, "path": sys.path}, file)
        return super().score_windows(seen, words)
"""


def quiet(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=240, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


HAS_COMPILER = shutil.which("g++") is not None
LIBRARY = "ovss/harness/native/libkernels.so"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory)


def copied(source: Path) -> Path:
    """The checkout without what was built in it."""
    for room in ("methods", "datasets", "harness", "tests"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__", ".*", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    return source


def built(tmp_path_factory: pytest.TempPathFactory, **variables: str) -> Path:
    """Built from a copy, so that the checkout stays as it is and no old build folder leaks into it."""
    pytest.importorskip("setuptools", minversion="77")
    source, out = copied(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    quiet(*pip, "--wheel-dir", out, source, cwd=out, env=os.environ | variables)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def pure_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory, CC="/bin/false", CXX="/bin/false")


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(wheel, tmp_path_factory)


def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bin`` of an environment with the wheel; dependencies come from the parent, its editable install does not."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    python = folder / "bin" / "python"
    quiet(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    # The parent's own .pth files, the finder of the editable install among them, are not read.
    (site / "parent.pth").write_text(f"{PARENT_SITE}\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    (folder / "datasets_probe.py").write_text(PROBE)
    return folder


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distribution that looks like the Hugging Face library of the name ``datasets``."""
    folder = tmp_path_factory.mktemp("fake")
    (folder / "datasets").mkdir()
    (folder / "datasets" / "__init__.py").write_text('__version__ = "99.1.0"\n')
    info = folder / "datasets-99.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: datasets\nVersion: 99.1.0\n")
    return folder


def test_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {n.split("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"ovss"}  # no `datasets`, no tests
    assert {n.split("/")[1] for n in names if n.startswith("ovss/")} == {"methods", "datasets", "harness"}
    wanted = {
        *(f"ovss/{room}/py.typed" for room in ("methods", "datasets", "harness")),
        "ovss/methods/models/tiny_clip/open_clip_model.safetensors",
        "ovss/methods/models/tiny_clip/open_clip_config.json",
        "ovss/methods/models/tiny_clip/bpe.txt.gz",
        "ovss/methods/core/templates/openai80.txt",
        "ovss/datasets/records/camvid.toml",
        "ovss/datasets/classes/camvid.txt",
        "ovss/harness/report/published.csv",
        *(f"ovss/harness/suites/{s}.toml" for s in ("eight-benchmarks", "mess", "shapes")),
        *(f"ovss/harness/protocol/protocols/{p}.toml" for p in ("unified", "sclip", "naclip", "clearclip", "tiny")),
    }
    assert wanted <= names
    assert not [n for n in names if "__pycache__" in n or n.endswith(".pyc")]
    assert [n for n in names if n.endswith(".so")] == ([LIBRARY] if HAS_COMPILER else [])
    assert "-py3-none-" in wheel.name and wheel.name.endswith("-any.whl") != HAS_COMPILER
    (licence,) = (n for n in names if n.endswith("/LICENSE"))
    assert ".dist-info/" in licence


@pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")
def test_the_kernels_of_the_wheel_run(clean: Path, tmp_path: Path) -> None:
    code = "from ovss.harness.decoding.decode import decoder_name; print(decoder_name('cpu'))"
    found = quiet(clean / "python", "-c", code, cwd=tmp_path, env=os.environ | {"OVSS_KERNELS": "1"}).stdout
    assert found == "compiled\n"


def test_without_a_compiler_the_wheel_is_pure_and_whole(pure_wheel: Path, tmp_path: Path) -> None:
    assert pure_wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(pure_wheel) as archive:
        assert LIBRARY not in archive.namelist()
        archive.extractall(tmp_path)
    code = "from ovss.harness.native import door; print(door.__file__, door.kernels(), door.state())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    found = quiet(sys.executable, "-c", code, cwd=tmp_path, env=environment).stdout
    assert found.startswith(f"{tmp_path}/ovss/harness/native/door.py None none: they were not built")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")
def test_both_wheels_run_from_an_empty_folder_and_agree(
    clean: Path,
    pure_wheel: Path,
    console: Callable[..., Any],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The one with kernels insists on them, the other says that it has none; the counts are the same."""
    pure = installed(pure_wheel, tmp_path_factory)
    command = ("run", "-m", "maskclip", "-d", "shapes", "--limit", "2", "--json")
    found = {}
    for name, scripts, variables in (("compiled", clean, {"OVSS_KERNELS": "1"}), ("torch", pure, {})):
        (home := tmp_path / name).mkdir()
        run = home / console(*command, script=scripts / "bench", cwd=home, PYTHONPATH="", **variables).json()["run_dir"]
        assert json.loads((run / "manifest.json").read_text())["environment"]["decoder"] == name
        found[name] = (run / "counts.parquet").read_bytes()
    assert found["compiled"] and found["compiled"] == found["torch"]
    refused = console(*command, "--fresh", script=pure / "bench", cwd=tmp_path, PYTHONPATH="", OVSS_KERNELS="1")
    assert refused.code != 0 and "they were not built" in refused.err


@pytest.mark.slow
def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """What `pip install` gets where there is no wheel for the platform."""
    source = copied(tmp_path / "source")
    quiet(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, source, cwd=tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    quiet(*pip, "--wheel-dir", tmp_path, sdist, cwd=tmp_path)
    with zipfile.ZipFile(tmp_path / wheel.name) as again, zipfile.ZipFile(wheel) as first:
        assert {i.filename: i.CRC for i in again.infolist()} == {i.filename: i.CRC for i in first.infolist()}


def test_releases_are_built_for_four_platforms_and_published_for_tags_alone() -> None:
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    jobs = release["jobs"]
    runners = jobs["wheel"]["strategy"]["matrix"]["runner"]
    assert {(r.split("-")[0], r.endswith(("-arm", "macos-15"))) for r in runners} == {
        ("ubuntu", False), ("ubuntu", True), ("macos", False), ("macos", True),
    }  # fmt: skip
    assert "refs/tags/v" in jobs["publish"]["if"] and set(jobs["publish"]["needs"]) == {"wheel", "source"}
    assert [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})] == ["publish"]
    assert release["permissions"] == {"contents": "read"}


def test_every_file_of_the_rooms_is_packed(wheel: Path) -> None:
    """A new module or data file must not be forgotten in pyproject.toml."""
    names = set(zipfile.ZipFile(wheel).namelist())
    for room in ("methods", "datasets", "harness"):
        files = [p for p in (ROOT / room).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        kept = [p.relative_to(ROOT).as_posix() for p in files if not p.name.startswith(".")]
        missing = [k for k in kept if f"ovss/{k}" not in names]
        assert not missing


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/entry_points.txt"))
        scripts = archive.read(name).decode()
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        metadata = archive.read(name).decode()
    for script in ("bench", "ovss-bench"):
        assert f"{script} = ovss.harness.cli.main:main" in scripts
    assert "Requires-Python: >=3.10" in metadata and "License-Expression: Apache-2.0" in metadata
    assert "\nRequires-Dist: datasets" not in metadata
    size = sum(i.file_size for i in zipfile.ZipFile(wheel).infolist() if "tiny_clip/" in i.filename)
    assert size < 8_000_000


def test_datasets_is_not_importable_from_the_wheel(clean: Path, tmp_path: Path) -> None:
    code = "import ovss.datasets, importlib.util; print(importlib.util.find_spec('datasets'))"
    found = quiet(clean / "python", "-c", code, cwd=tmp_path).stdout.strip()
    assert (found == "None") != HF_IS_INSTALLED and str(clean.parent) not in found


def run_with_the_probe(
    console: Callable[..., Any], probe: Path, fake: Path, out: Path, *limit: str, **how: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``bench run`` says, and what the probe saw from inside of it."""
    command = ("run", "-m", "datasets_probe:Probe", "-d", "shapes", "--json", "--results", str(out / "results"), *limit)
    path = os.pathsep.join([str(probe), str(fake)])
    found = console(*command, **how, PYTHONPATH=path, PROBE_OUT=str(out / "probe.json")).json()
    seen = json.loads((out / "probe.json").read_text())
    assert seen["datasets"] == {"file": str(fake / "datasets" / "__init__.py"), "version": "99.1.0"}
    return found, seen


def test_the_wheel_runs_where_nothing_is_but_a_folder_of_that_name(
    clean: Path, probe: Path, fake: Path, console: Callable[..., Any], tmp_path: Path
) -> None:
    """As in the root of a checkout: the run is that of the wheel, and the library of the name is found."""
    (here := tmp_path / "here").mkdir()
    shutil.copytree(ROOT / "datasets", here / "datasets")
    found, seen = run_with_the_probe(console, probe, fake, tmp_path, "--limit", "4", cwd=here, script=clean / "bench")
    assert found["images"] == 4 and found["miou"] > 5
    assert (tmp_path / found["run_dir"]).is_dir() and "+dirty" not in found["code_version"]
    assert Path(seen["ours"]).is_relative_to(clean.parent)
    assert str(ROOT) not in seen["path"]


@pytest.mark.slow
def test_the_library_of_the_name_is_found_even_in_the_checkout(
    probe: Path, fake: Path, console: Callable[..., Any], tmp_path: Path
) -> None:
    """With the root of the checkout as working folder, where our own folder is called ``datasets`` too."""
    found, seen = run_with_the_probe(console, probe, fake, tmp_path, "--limit", "1", cwd=ROOT)
    assert found["images"] == 1
    assert Path(seen["ours"]).is_relative_to(ROOT)
