"""``bench show``: one run, class by class, where it comes from, and what went wrong."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..report.confused import Confused
from ..report.of_run import class_rows, provenance_rows
from ..runs.run import Finished, find_run
from ..show.tables import percent, print_json, print_line, print_table, print_warning
from ..use.images import ScoredImage, confusions, draw_images, worst_images
from .early import check_png

_CONFUSIONS = 20


def show_command(
    name: str,
    results: Path,
    worst: int,
    output: Path | None,
    labels: Path | None,
    confusion: bool,
    as_json: bool,
) -> None:
    """Per-class table and provenance; or the ``worst`` images; or what was taken for what."""
    if output is not None:
        check_png(output, "--output", make_folder=True)
    run = find_run(name, results).finished()
    if worst or confusion:
        picture = (output or results / f"{run.name}-worst.png") if worst else None
        _show_images(run, worst_images(run, worst), picture, labels, confusions(run) if confusion else None, as_json)
    elif as_json:
        manifest = run.manifest.model_dump(mode="json")
        print_json({"manifest": manifest, "metrics": run.summary, "run_dir": str(run.run.folder)})
    else:
        _show_run(run)


def _show_images(
    run: Finished,
    worst: Sequence[ScoredImage],
    picture: Path | None,
    labels: Path | None,
    taken: Sequence[Confused] | None,
    as_json: bool,
) -> None:
    same = draw_images(run, [one.image for one in worst], picture, labels) if picture and worst else True
    if as_json:
        value: dict[str, object] = {"run": run.name, "run_dir": str(run.folder)}
        value |= {"worst": [asdict(one) for one in worst], "picture": str(picture)} if picture else {}
        print_json(value | ({} if taken is None else {"confusion": [asdict(one) for one in taken]}))
        return
    if picture:
        rows = [(one.image, percent(one.miou)) for one in worst]
        print_table(f"{run.name}: worst of {len(run.result.ids)} images", ("image", "mIoU of its classes"), rows)
        print_line(f"wrote {picture}")
    if not same:
        print_warning(
            "predicted again, some of these label maps are not those that the run has counted: another machine or "
            "other code rounds differently.  `bench run --save-labels` keeps label maps beside the counts"
        )
    if taken is not None:
        print_table(
            f"{run.name}: what was taken for what",
            ("label", "said to be", "% of the label", "pixels"),
            [(one.label, one.prediction, f"{100 * one.share:.1f}", one.pixels) for one in taken[:_CONFUSIONS]],
        )
        if len(taken) > _CONFUSIONS:
            print_line(f"and {len(taken) - _CONFUSIONS} more: --json has all")


def _show_run(run: Finished) -> None:
    manifest, metrics = run.manifest, run.summary
    print_table(run.name, ("class", "IoU", "precision", "recall", "images"), class_rows(run))
    print_table("", ("metric", "value"), [(k, percent(v)) for k, v in metrics.items() if isinstance(v, float)])
    print_table("", ("provenance", ""), provenance_rows(run))
    if manifest.note:
        print_line(f"note: {manifest.note}")
