"""One pass over the images of several data sets: the same bytes as a run of each, however it came about."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovss.datasets import check_samples
from ovss.datasets import dataset as dataset_module
from ovss.datasets.shapes import CLASS_NAMES, make_scene
from ovss.harness.engines.drive import drive
from ovss.harness.engines.local import Local
from ovss.harness.metrics.counting import count_reference
from ovss.harness.metrics.of_confusion import counts_of, dense
from ovss.harness.protocol import words
from ovss.harness.protocol.protocol import Protocol
from ovss.harness.report.regress import offline_methods
from ovss.harness.runs import engine, parts, photo
from ovss.harness.runs.engine import Lane
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import STAGES, Clock, Pipeline
from ovss.harness.runs.plan import RunSpec, build_pipelines, make_plan
from ovss.harness.runs.run import COUNTS, METRICS, Run
from ovss.harness.runs.worker_task import WorkerTask
from ovss.methods import Backbone, MethodInfo, UserError, Vocabulary, load_backbone, registry
from ovss.methods.blocks.dense_clip import DenseClip
from ovss.methods.models import vit
from ovss.methods.models.weights import find_entry
from ovss.methods.refine import load_guide as guides

from ...methods.models.test_dino import random_state, save
from ...toys import Toy
from . import in_memory

SIZES = ((67, 51), (64, 64), (90, 43), (48, 81), (72, 72))
STUFF = 8
"""Classes of the tiny world before the first thing."""
THREE = ("things21", "things20", "everything")
Bytes = list[tuple[bytes, bytes]]


def toml(key: str, **fields: Any) -> str:
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    return f'key = "{key}"\ntitle = "{key}"\nimages = "images"\nimage_suffix = ".png"\n' + "\n".join(lines)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of the tiny world with two folders of labels and three records, as VOC21, VOC20 and Context are.

    Edges are ignored.  The last image shows no thing at all: for ``things20`` every pixel of it is ignored.
    """
    root = tmp_path_factory.mktemp("home")
    for folder in ("images", "things", "all"):
        (root / folder).mkdir()
    for number, (width, height) in enumerate(SIZES):
        scene = make_scene("val", 70 + number, size=128)
        label = scene.label[20 : 20 + height, 30 : 30 + width].copy()
        label[:, 0] = 255
        if number == len(SIZES) - 1:
            label[(label >= STUFF) & (label < 255)] = 0
        things = np.where(label < STUFF, 0, np.where(label == 255, 255, label.astype(int) - STUFF + 1))
        Image.fromarray(scene.image[20 : 20 + height, 30 : 30 + width]).save(root / "images" / f"{number}.png")
        Image.fromarray(things.astype(np.uint8)).save(root / "things" / f"{number}.png")
        Image.fromarray(label).save(root / "all" / f"{number}.png")
    names = list(CLASS_NAMES[STUFF:])
    background = ["grass, sky, sand, water", *(f"{n}, drawing of a {n}" for n in names)]
    everything = {"groups": [0] * STUFF + [1] * len(names), "parents": "parents.json"}
    (root / "parents.json").write_text(json.dumps({0: [2], 3: [1], 9: [8]}))
    records = {
        "things21": {"labels": "things", "classes": ["background", *names], "words": background, "background": 0},
        "things20": {"labels": "things", "classes": names, "first_label": 1},
        "everything": {"labels": "all", "classes": list(CLASS_NAMES), **everything},
    }
    for key, fields in records.items():
        (root / f"{key}.toml").write_text(toml(key, **fields))
    return root


@pytest.fixture(autouse=True)
def _one_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny-clip is read once for all tests of this file."""
    monkeypatch.setattr(registry, "load_backbone", lambda *asked: tiny_clip())


def tiny_clip(kept: list[Backbone] = []) -> Backbone:  # noqa: B006 - it is the memory
    if not kept:
        kept.append(load_backbone("tiny-clip"))
    return kept[0]


def protocol(base: dict[str, Any] | None = None, **tables: dict[str, Any]) -> Protocol:
    """Thresholds and scales differ between the data sets."""
    own: dict[str, dict[str, Any]] = {
        "things21": {"logit_scale": 40.0, "probability_threshold": 0.15, "area_threshold": 0.02},
        "things20": {"logit_scale": 65.0},
        "every*": {"averaging": "labelled"},
    }
    return Protocol(
        name="made-up",
        summary="",
        source="",
        version=1,
        family="paper",
        base={"templates": "simple", "short_side_px": 64, **(base or {})},
        dataset={key: {**own.get(key, {}), **tables.get(key, {})} for key in {**own, **tables}},
    )


FEW_MASKS = {"ovseg-tf": {"scale": 500.0, "min_size": 600}}
"""As many crops as a test has time for."""
WINDOWS = {"short_side_px": 56, "window_px": 48, "stride_px": 31}
SCALE = {"logit_scale": 40.0}
ONE_SCALE = protocol({**WINDOWS, **SCALE, "options_of": FEW_MASKS}, things20=SCALE)
"""A method that takes the scale must be given the same one everywhere to be shared."""


def lanes_for(results: Path, home: Path, keys: Sequence[str], **spec: Any) -> list[Lane]:
    """Planned runs of data sets that share a pass, as ``bench run`` makes them."""
    values = {"method": "maskclip", "backbone": "tiny-clip", "protocol": protocol(WINDOWS), **spec}
    return lanes_of(results, [RunSpec(dataset=str(home / f"{key}.toml"), **values) for key in keys])


def lanes_of(results: Path, specs: Sequence[RunSpec]) -> list[Lane]:
    data = [s.open_data() for s in specs]
    out = []
    for s, pipeline, d in zip(specs, build_pipelines(specs, data), data, strict=True):
        plan = make_plan(s, pipeline, d, check_samples(d, d.ids).digests)
        run = Run.at(results, plan)
        run.begin(plan)
        out.append(Lane(run, pipeline, d))
    return out


def score(lanes: Sequence[Lane], ids: Sequence[str] | None = None) -> Bytes:
    """Work in this process and merge."""
    engine.work_through(lanes, lanes[0].data.ids if ids is None else ids, "cpu", engine.Watch())
    return outputs(lanes)


def outputs(lanes: Sequence[Lane]) -> Bytes:
    for lane in lanes:
        lane.run.merge()
    return [((lane.run.folder / COUNTS).read_bytes(), (lane.run.folder / METRICS).read_bytes()) for lane in lanes]


def alone(results: Path, home: Path, keys: Sequence[str] = THREE, **spec: Any) -> Bytes:
    """Every data set in a run of its own."""
    return [found for key in keys for found in score(lanes_for(results, home, [key], **spec))]


def alone_once(results: Path, home: Path, method: str, keys: Sequence[str], kept: dict[str, Bytes] = {}) -> Bytes:  # noqa: B006 - it is the memory
    """Runs under ``ONE_SCALE``, which several tests compare with."""
    for key in keys:
        if f"{method} {key}" not in kept:
            kept[f"{method} {key}"] = alone(results, home, [key], method=method, protocol=ONE_SCALE)
    return [found for key in keys for found in kept[f"{method} {key}"]]


@pytest.fixture(scope="module")
def undisturbed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Bytes:
    """What separate runs of MaskCLIP give."""
    return alone(tmp_path_factory.mktemp("undisturbed"), home)


# --- the same bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", offline_methods())
def test_every_method(home: Path, tmp_path: Path, method: str) -> None:
    shared = lanes_for(tmp_path / "shared", home, THREE, method=method, protocol=ONE_SCALE)
    apart = alone_once(tmp_path / "alone", home, method, THREE)
    assert score(shared) == apart
    assert len({counts for counts, _ in apart}) == 3
    folders = [sorted(p.name for p in (tmp_path / t / "runs").iterdir()) for t in ("shared", "alone")]
    assert folders[0] == folders[1]  # a shared run is found again by a separate one


def test_a_method_that_takes_the_scale_is_built_twice(home: Path, tmp_path: Path) -> None:
    shared = lanes_for(tmp_path / "shared", home, THREE, method="cliper")
    built = [lane.pipeline.method for lane in shared]
    assert built[0] is not built[1] and built[0].tower is built[1].tower  # type: ignore[attr-defined]
    assert score(shared) == alone(tmp_path / "alone", home, method="cliper")


PROBABILITIES = {"average": "probability", "window_px": 48, "stride_px": 48}
VARIANTS: dict[str, Protocol] = {
    "whole image": protocol(),
    "as it is": protocol({"short_side_px": 0}),
    "padded": protocol({"method_options": {"pad": True}, "short_side_px": 51}),
    "option of one method": protocol({"options_of": {"sclip": {"pad": True}}}),
    "columns": protocol({"columns": 2, "resize": "pillow-bicubic", "size_multiple_px": 16}),
    "probabilities": protocol(PROBABILITIES, things20={"logit_scale": 10.0}),
    "pamr for one": protocol(WINDOWS, things20={"refine": "pamr", "refine_steps": 2}),
    "scaled by class": protocol(
        PROBABILITIES,
        things21={"class_scaling": "max", "class_gate": 0.05, "area_threshold": 0.0, "probability_threshold": 0.1},
    ),
    "words": protocol(WINDOWS, things21={"background_words": "shared"}, things20={"templates": "openai80"}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_protocol(home: Path, tmp_path: Path, name: str) -> None:
    spec = {"method": "sclip", "protocol": VARIANTS[name], "confusion": name == "columns", "boundary": name == "padded"}
    shared = score(lanes_for(tmp_path / "shared", home, THREE, **spec))
    assert shared == alone(tmp_path / "alone", home, **spec)


def test_the_order_of_names_does_not_matter(home: Path, tmp_path: Path, undisturbed: Bytes) -> None:
    assert score(lanes_for(tmp_path, home, THREE[::-1])) == undisturbed[::-1]


@pytest.mark.parametrize("workers", [2, 3])
def test_workers(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Bytes, workers: int) -> None:
    """Forked here, which is quick; the fork server is tested with the command line."""
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: forked)
    lanes = lanes_for(tmp_path, home, THREE)
    seen: list[int] = []
    drive(Local(), WorkerTask(runs=tuple(lane.run.folder for lane in lanes), workers=workers), workers, seen.append)
    assert sum(seen) == 3 * len(SIZES)
    assert outputs(lanes) == undisturbed


# --- once -------------------------------------------------------------------------------------------------------------


def test_images_are_read_resized_and_encoded_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, int] = {}

    def count_calls(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*given: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            return original(*given)

        monkeypatch.setattr(owner, name, call)

    count_calls(dataset_module, "read_image_file")
    count_calls(dataset_module, "read_label_file")
    count_calls(DenseClip, "encode_windows")
    count_calls(DenseClip, "score_windows")
    count_calls(photo, "resize_image")
    lanes = lanes_for(tmp_path, home, THREE)
    score(lanes)
    once = len(SIZES)
    assert calls == {
        "read_image_file": once, "resize_image": once, "encode_windows": once,
        "read_label_file": 3 * once, "score_windows": 3 * once,
    }  # fmt: skip
    assert lanes[0].pipeline.method.tower is lanes[2].pipeline.method.tower  # type: ignore[attr-defined]


def test_what_is_done_once_counts_for_each(home: Path, tmp_path: Path) -> None:
    lanes = lanes_for(tmp_path, home, THREE)
    score(lanes)
    frames = [in_memory.rows_of(lane.run.parts_folder) for lane in lanes]
    for stage in ("resize", "segment"):
        first, *others = (frame[f"{stage}_seconds"] for frame in frames)
        assert all((seconds > 0).all() for seconds in (first, *others))  # how much: test_timing, to the second
    assert all((frame[f"{stage}_seconds"] >= 0).all() for frame in frames for stage in STAGES)


def test_labels_are_those_of_each_pipeline(home: Path, tmp_path: Path) -> None:
    lanes = lanes_for(tmp_path, home, THREE)
    sample = lanes[0].data.load("0")
    shown = Photo(sample.image)
    for lane in lanes:
        labels = lane.pipeline.predict(shown, Clock())
        assert torch.equal(labels, lane.pipeline.predict(Photo(sample.image), Clock()))
        assert labels.shape == sample.image.shape[:2]


# --- going on ---------------------------------------------------------------------------------------------------------


def test_one_of_them_is_partly_done(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Bytes
) -> None:
    ids = tuple(str(k) for k in range(len(SIZES)))
    score(lanes_for(tmp_path, home, ["things20"]), ids[:3])
    score(lanes_for(tmp_path, home, ["everything"]), ids[1:])
    encoded: list[int] = []
    features = DenseClip.encode_windows
    monkeypatch.setattr(DenseClip, "encode_windows", lambda *given: encoded.append(1) or features(*given))
    lanes = lanes_for(tmp_path, home, THREE)
    assert [lane.run.missing(ids) for lane in lanes] == [ids, ids[3:], ids[:1]]
    assert score(lanes) == undisturbed
    assert len(encoded) == len(ids)
    before = [sorted(lane.run.parts_folder.iterdir()) for lane in lanes]
    assert score(lanes) == undisturbed  # nothing is left to do
    assert len(encoded) == len(ids) and before == [sorted(lane.run.parts_folder.iterdir()) for lane in lanes]
    assert all(lane.run.is_merged() for lane in lanes)


@pytest.fixture
def _every_image_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(engine, "_FLUSH_SHARE", 0.0)


def killed(lanes: Sequence[Lane], advance: Callable[[int], None]) -> None:
    """Work in a child that does not survive it."""
    work = (lanes, lanes[0].data.ids, "cpu", engine.Watch(advance))
    child = multiprocessing.get_context("fork").Process(target=engine.work_through, args=work)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.usefixtures("_every_image_a_part")
@pytest.mark.parametrize("image", [1, 3])
def test_killed_between_two_images(home: Path, tmp_path: Path, undisturbed: Bytes, image: int) -> None:
    lanes = lanes_for(tmp_path, home, THREE)
    seen: list[int] = []

    def advance(count: int) -> None:
        seen.append(count)
        if len(seen) > image:  # scored, but not written yet
            os.kill(os.getpid(), signal.SIGKILL)

    killed(lanes, advance)
    assert [len(lane.run.done()) for lane in lanes] == [image] * 3
    assert score(lanes_for(tmp_path, home, THREE)) == undisturbed


@pytest.mark.usefixtures("_every_image_a_part")
def test_killed_between_the_parts_of_one_image(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Bytes
) -> None:
    """One run has the image, the others have not."""
    lanes = lanes_for(tmp_path, home, THREE)
    write, seen = parts.write_part, []

    def dying(*given: Any) -> Path:
        seen.append(1)
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "write_part", dying)
        killed(lanes, lambda count: None)
    assert [len(lane.run.done()) for lane in lanes] == [2, 1, 1]
    assert score(lanes_for(tmp_path, home, THREE)) == undisturbed


def test_an_error_in_one_keeps_what_all_have_done(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Bytes
) -> None:
    lanes = lanes_for(tmp_path, home, THREE)
    compare, seen = Pipeline.compare, []

    def failing(self: Pipeline, *given: Any) -> Any:
        seen.append(self.record.key)
        if seen.count("things20") == 3 and self.record.key == "things20":
            raise UserError("out of luck")
        return compare(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "compare", failing)
        with pytest.raises(UserError, match="image 2: out of luck"):
            score(lanes)
    assert [len(lane.run.done()) for lane in lanes] == [2, 2, 2]
    assert score(lanes) == undisturbed


# --- different settings -----------------------------------------------------------------------------------------------

DIFFERENT: dict[str, Any] = {
    "short_side_px": 48,
    "long_side_px": 70,
    "resize": "pillow-linear",
    "size_multiple_px": 8,
    "columns": 2,
    "window_px": 40,
    "stride_px": 20,
    "precision": "bfloat16",
    "method_options": {"pad": True},
    "options_of": {"maskclip": {"pad": True}},
}


@pytest.mark.parametrize("field", DIFFERENT)
def test_settings_that_have_nothing_in_common_but_the_image(home: Path, tmp_path: Path, field: str) -> None:
    """Another size or geometry is another key, so that nothing is taken from the wrong one."""
    other = protocol(WINDOWS, things20={field: DIFFERENT[field]})
    shared = lanes_for(tmp_path / "shared", home, THREE[:2], protocol=other)
    assert score(shared) == alone(tmp_path / "alone", home, THREE[:2], protocol=other)


# --- several methods --------------------------------------------------------------------------------------------------

DENSE = ("clip", "maskclip", "sclip", "naclip", "clearclip")


def pairs(results: Path, home: Path, methods: Sequence[str], keys: Sequence[str], **spec: Any) -> list[Lane]:
    """Every method on every data set in one pass."""
    values = {"backbone": "tiny-clip", "protocol": protocol(WINDOWS), **spec}
    specs = [RunSpec(dataset=str(home / f"{key}.toml"), method=m, **values) for m in methods for key in keys]
    return lanes_of(results, specs)


@pytest.fixture
def dino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A small DINO with random weights where the guide's checkpoint is looked for."""
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path / "mirror"))
    monkeypatch.setattr("ovss.methods.models.weights.check_entry", lambda found: None)
    save(tmp_path / "mirror", random_state(128, 2, 16, 3), find_entry("dino-vitb16").files[0].name)
    caches = (guides.load_guide, guides._patch_similarity)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("dino")
@pytest.mark.parametrize("refine", ["none", "pamr", "tiny-sd", "dino-b16"])
def test_many_methods_in_one_pass(home: Path, tmp_path: Path, refine: str) -> None:
    """The same bytes as a run of each pair; the trunk once per image, a guide once per image."""
    spec = {"protocol": protocol({**WINDOWS, "refine": refine})}
    methods = DENSE if refine == "none" else DENSE[-2:]  # refinement is slow
    keys = THREE[:1] if refine == "tiny-sd" else THREE[:2]
    lanes = pairs(tmp_path / "together", home, methods, keys, **spec)
    guides = {id(lane.pipeline.guide): lane.pipeline.guide for lane in lanes}
    with counted_calls(vit, "run_trunk") as trunks, counted_calls(type(guides.popitem()[1]), "observe") as looks:
        found = score(lanes)
    assert len(trunks) == len(SIZES)
    assert len(looks) == (len(SIZES) if refine in ("tiny-sd", "dino-b16") else 0)
    apart = [one for m in methods for one in alone(tmp_path / "alone", home, keys, method=m, **spec)]
    assert found == apart and len({counts for counts, _ in found}) == len(lanes)


def test_methods_of_every_kind_in_one_pass(home: Path, tmp_path: Path) -> None:
    methods = offline_methods()
    lanes = pairs(tmp_path / "together", home, methods, THREE[:1], protocol=ONE_SCALE)
    apart = [one for m in methods for one in alone_once(tmp_path / "alone", home, m, THREE[:1])]
    assert score(lanes) == apart


@contextmanager
def counted_calls(owner: Any, name: str) -> Iterator[list[int]]:
    """One entry for every call while this lasts; nothing for an owner that has no such thing."""
    calls: list[int] = []
    original = getattr(owner, name, None)

    def call(*given: Any, **named: Any) -> Any:
        calls.append(1)
        return original(*given, **named)  # type: ignore[misc]

    with pytest.MonkeyPatch.context() as patch:
        if original is not None:
            patch.setattr(owner, name, call)
        yield calls


# --- methods of others ------------------------------------------------------------------------------------------------

PLUGIN = """
import torch
from ovss.methods import MethodInfo, WindowMethod, Words
from ovss.methods.maskclip import MaskCLIP

calls = []


class Flipped(MaskCLIP):
    def score_windows(self, seen, words):
        calls.append(len(words.vocabulary.classes))
        return super().score_windows(seen, words).flip(3)


class Whole(MaskCLIP):
    def score(self, seen, words):
        calls.append(len(words.vocabulary.classes))
        return super().score(seen, words)


class Plain(WindowMethod):
    info = MethodInfo("plain", "Plain", "nobody, never")

    def __init__(self, backbone, device="cpu", dtype=torch.float32):
        super().__init__()

    def encode_text(self, vocabulary):
        return Words(vocabulary)

    def encode_windows(self, windows):
        return torch.nn.functional.avg_pool2d(windows.pixels.float().mean(1, keepdim=True), 4) / 255

    def score_windows(self, seen, words):
        calls.append(len(words.vocabulary.classes))
        return -(seen - torch.linspace(0, 1, len(words.vocabulary.queries)).view(1, -1, 1, 1)).abs()
"""


@pytest.mark.parametrize("kind", ["Flipped", "Whole", "Plain"])
def test_overrides_are_called(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name = f"shared_plugin_{kind.lower()}"
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = {"method": f"{name}:{kind}"}
    shared = score(lanes_for(tmp_path / "shared", home, THREE, **spec))
    calls = __import__(name).calls
    assert calls == [15, 14, 22] * len(SIZES)
    assert shared == alone(tmp_path / "alone", home, **spec)
    assert len(calls) == 2 * 3 * len(SIZES)
    if kind == "Flipped":
        assert shared[0] != alone(tmp_path / "parent", home, THREE[:1])[0]


# --- confusion --------------------------------------------------------------------------------------------------------


def test_confusion_is_stored_and_gives_the_counts(home: Path, tmp_path: Path, undisturbed: Bytes) -> None:
    without = lanes_for(tmp_path, home, THREE)
    lanes = lanes_for(tmp_path, home, THREE, confusion=True)
    found = score(lanes)
    assert len({lane.run.folder for lane in (*without, *lanes)}) == 6
    for lane, (_, plain_metrics), (_, metrics) in zip(lanes, undisturbed, found, strict=True):
        frame, classes = lane.run.finished().frame, len(lane.data.record.classes)
        stored = in_memory.confusion_of(frame)
        assert stored is not None
        from_cells, counts = counts_of(stored, len(SIZES), classes), in_memory.counts_of(frame, classes)
        for name in ("tp", "gt", "pred"):
            assert np.array_equal(getattr(from_cells, name), getattr(counts, name))
        more = {k: v for k, v in json.loads(metrics).items() if k not in json.loads(plain_metrics)}
        assert set(more) == ({"group_miou", "sg_miou"} if lane.data.record.groups else set())
        assert json.loads(metrics) == {**json.loads(plain_metrics), **more}
        assert all(0 < v <= 100 for v in more.values())
    empty = lanes[1].run.finished().frame.iloc[-1]  # every pixel of its label is ignored
    assert len(empty["confusion_pixels"]) == 0 and empty["gt"].sum() == 0
    assert json.loads(found[2][1])["group_miou"] > json.loads(found[2][1])["miou"]


def test_group_miou_of_the_labels(home: Path, tmp_path: Path) -> None:
    """From the label maps themselves: both are reduced to stuff and things before they are compared."""
    (lane,) = lanes_for(tmp_path, home, ["everything"], confusion=True)
    metrics = json.loads(score([lane])[0][1])
    tp = union = np.zeros(2)
    for sample in map(lane.data.load, lane.data.ids):
        predicted = (lane.pipeline.predict(Photo(sample.image), Clock()) >= STUFF).to(torch.uint8)
        label = torch.from_numpy(np.where(sample.label == 255, 255, sample.label >= STUFF).astype(np.uint8))
        counts = count_reference(predicted, label, 2)
        tp, union = tp + counts.tp, union + counts.gt + counts.pred - counts.tp
    assert metrics["group_miou"] == pytest.approx(100 * (tp / union).mean())


class Painted(Toy):
    """Predicts what the red channel says: query k where it is 100 k."""

    info = MethodInfo("painted", "Painted", "nobody, never")

    def score_pixels(self, pixels: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
        levels = 100.0 * torch.arange(len(vocabulary.queries)).view(1, -1, 1, 1)
        return -(pixels[:, :1].float() - levels).abs() / 255


PREDICTED = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2], [1, 1, 0, 2]]
LABEL = [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 255, 255], [1, 1, 0, 0]]


def test_background_words_without_a_background_are_misses_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Query 2 stands for everything else.  By hand: dark 5 right of 8, 5 predicted; light 5 right of 6, 6 predicted."""
    for folder in ("images", "labels", "lists"):
        (tmp_path / folder).mkdir()
    red = np.array(PREDICTED, np.uint8) * 100
    Image.fromarray(np.stack([red, red * 0, red * 0], -1)).save(tmp_path / "images" / "a.png")
    Image.fromarray(np.array(LABEL, np.uint8)).save(tmp_path / "labels" / "a.png")
    (tmp_path / "parents.json").write_text('{"0": [1]}')
    more = {"classes": ["dark", "light"], "groups": [0, 0], "parents": "parents.json"}
    (tmp_path / "bands.toml").write_text(toml("bands", labels="labels", **more))
    (tmp_path / "lists" / "bands.other.txt").write_text("anything else\ndark\nlight\n")
    monkeypatch.setattr(words, "_FOLDER", tmp_path / "lists")
    listed = protocol({"short_side_px": 0, "vocabulary": "other", "vocabulary_form": "background-first"})
    spec = RunSpec(
        method="painted", dataset=str(tmp_path / "bands.toml"), protocol=listed, confusion=True, boundary=True
    )
    data = spec.open_data()
    pipeline = Pipeline(Painted(), spec.setting_for(data), data.record, boundary=True, confusion=True)
    assert pipeline.predict(Photo(data.load("a").image), Clock()).tolist() == PREDICTED
    assert pipeline.words.vocabulary.classes == ("dark", "light", words.OUTSIDE)
    plan = make_plan(spec, pipeline, data, check_samples(data, data.ids).digests)
    run = Run.at(tmp_path / "results", plan)
    run.begin(plan)
    score([Lane(run, pipeline, data)])

    row = run.finished().frame.iloc[0]
    assert [row[n].tolist() for n in ("tp", "gt", "pred")] == [[5, 5], [8, 6], [5, 6]]
    assert len(row["boundary_tp"]) == 2
    stored = in_memory.confusion_of(run.finished().frame)
    assert stored is not None and dense(stored, 3).tolist() == [[5, 1, 2], [0, 5, 1], [0, 0, 0]]
    metrics = run.finished().result.summary()
    assert metrics["per_class"] == pytest.approx({"dark": 500 / 8, "light": 500 / 7})
    assert metrics["miou"] == pytest.approx((500 / 8 + 500 / 7) / 2) and metrics["classes_averaged"] == 2
    assert metrics["aacc"] == pytest.approx(1000 / 14)
    assert metrics["macc"] == pytest.approx((500 / 8 + 500 / 6) / 2)
    assert metrics["group_miou"] == pytest.approx(1100 / 14)  # 11 of 14 stay within the group, 3 fall outside of it
    assert metrics["sg_miou"] == pytest.approx((600 / 8 + 500 / 7) / 2)  # dark as light: weight (1 + 5) / 6
