"""Reported values: the file's schema, one source per method, weights and refinement, and the cells that matter."""

from pathlib import Path
from typing import Any

import pytest

from ovss.harness.protocol.protocol import Setting
from ovss.harness.report.published import DATASETS, OTHERS, TABLE, WEIGHTS, chosen_rows, read_table, reported
from ovss.methods import UserError, find_method, list_methods

OPENAI_B = "hub timm/vit_base_patch16_clip_224.openai@0123456789ab"
OPENAI_L = "hub timm/vit_large_patch14_clip_224.openai@0123456789ab"
LAION_B = "hub laion/CLIP-ViT-B-16-laion2B-s34B-b88K@0123456789ab"
LAION_B32 = "hub laion/CLIP-ViT-B-32-laion2B-s34B-b79K@0123456789ab"
OVSEG = "file ovseg_swinbase_vitL14_ft_mpt.pth"
EIGHT = ("voc21", "context60", "coco_object", "voc20", "context59", "coco_stuff", "cityscapes", "ade20k")
HEADER = "method,backbone,vfm,dataset,miou,postproc,origin,source,flag\n"


def values(name: str | None, weights: str, *keys: str, **setting: Any) -> list[float | None]:
    found = Setting.model_validate(setting).model_dump()
    return [reported(name, key, weights, found)["reported"] for key in keys or EIGHT]


def sources(name: str, weights: str, **setting: Any) -> set[str]:
    found = Setting.model_validate(setting).model_dump()
    every = [reported(name, key, weights, found)["reported_source"] for key in DATASETS]
    return {source for source in every if source}


# --- the file ---------------------------------------------------------------------------------------------------------


def test_every_row_is_valid_and_stands_there_once() -> None:
    table = read_table()
    assert len(table) > 1200
    assert {row.dataset for row in table} == {*DATASETS.values(), *OTHERS}
    assert all(not row.source.startswith("SECONDARY") for row in table)  # that is a flag
    for row in table:
        doubtful = "likely swapped" in row.source or "not comparable" in row.source or "secondary" in row.postproc
        assert not doubtful and (row.dataset != "Context59-or-60" or row.flag)
    own = {(row.method, row.source) for row in table if row.origin != "elsewhere"}
    assert ("SCLIP", "github.com/wangf3014/SCLIP README table") in own
    assert not [method for method, source in own if "PEARL" in source and method != "PEARL"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("A,b,,VOC21,fifty,none,paper,some page,", "row 3: miou"),
        ("A,b,,VOC21,101,none,paper,some page,", "row 3: miou.*less than or equal to 100"),
        ("A,b,,VOC2012,50,none,paper,some page,", "row 3: dataset is 'VOC2012'"),
        ("A,b,,VOC21,50,pamr,paper,some page,", "row 3: postproc.*'PAMR'"),
        ("A,b,,VOC21,50,none,friend,some page,", "row 3: origin"),
        ("A,b,,VOC21,50,none,paper,,", "row 3: source"),
        (",b,,VOC21,50,none,paper,some page,", "row 3: method"),
        ("A,b,,VOC20,51,none,paper,some page,", "row 3: A on VOC20 stands there twice"),
        ("A,b,,VOC21,50,none,paper,some page,,more", "row 3: None"),
    ],
)
def test_what_the_schema_refuses(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "published.csv"
    path.write_text(f"{HEADER}A,b,,VOC20,50,none,paper,some page,\n{line}\n")
    with pytest.raises(UserError, match=says):
        read_table(path)


def test_the_header_is_the_schema() -> None:
    assert TABLE.read_text(encoding="utf-8").startswith(HEADER)


@pytest.mark.parametrize("name", [n for n in list_methods() if find_method(n).info.published])
def test_every_name_in_a_method_stands_in_the_table(name: str) -> None:
    """A name that occurs nowhere, or only with weights that nobody can have, would leave the column empty unseen."""
    published = find_method(name).info.published
    known = set(WEIGHTS.values())
    assert [row for row in read_table() if row.method == published and row.backbone in known and not row.flag]


# --- one source -------------------------------------------------------------------------------------------------------


def table_of(tmp_path: Path, lines: str) -> Any:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "".join(f"A,b,{line}\n".replace("as.listed", "as listed") for line in lines.split()))
    return read_table(path)


def test_the_paper_goes_before_the_repository_and_before_others(tmp_path: Path) -> None:
    lines = """
    ,VOC21,1,none,elsewhere,others, ,VOC20,2,none,elsewhere,others, ,ADE20K,3,none,elsewhere,others,
    ,VOC21,4,none,repository,page, ,VOC20,5,none,repository,page,
    ,VOC21,6,none,paper,arXiv,
    """
    table = table_of(tmp_path, lines)
    for kept, wanted in ((6, [6]), (5, [4, 5]), (3, [1, 2, 3])):
        assert [row.miou for row in chosen_rows(table[:kept], "A", "b", ("none",))] == wanted
    assert chosen_rows(table, "A", "c", ("none",)) == chosen_rows(table, "B", "b", ("none",)) == []


def test_among_equals_the_source_with_most_data_sets_then_the_first(tmp_path: Path) -> None:
    lines = """
    ,VOC21,1,none,elsewhere,first, ,avg8,9,none,elsewhere,first, ,VOC20,2,none,elsewhere,first,
    ,VOC21,3,none,elsewhere,second, ,VOC20,4,none,elsewhere,second,
    ,VOC21,5,none,elsewhere,third, ,VOC20,6,none,elsewhere,third, ,ADE20K,7,none,elsewhere,third,
    """
    table = table_of(tmp_path, lines)
    assert [row.miou for row in chosen_rows(table, "A", "b", ("none",))] == [5, 6, 7]
    assert [row.miou for row in chosen_rows(table[:5], "A", "b", ("none",))] == [1, 2]


def test_a_source_with_a_flag_is_left_out_as_a_whole(tmp_path: Path) -> None:
    lines = """
    ,VOC21,1,none,paper,arXiv, ,VOC20,2,none,paper,arXiv,swapped
    ,VOC21,3,none,elsewhere,others,
    """
    table = table_of(tmp_path, lines)
    assert [row.miou for row in chosen_rows(table, "A", "b", ("none",))] == [3]
    assert chosen_rows(table[:2], "A", "b", ("none",)) == []


def test_post_processing_and_second_models_do_not_mix(tmp_path: Path) -> None:
    lines = """
    DINO,VOC21,1,none,paper,arXiv, SAM,VOC20,2,none,paper,arXiv,
    ,VOC21,3,PAMR,paper,arXiv, ,ADE20K,4,as.listed,paper,arXiv,
    """
    table = table_of(tmp_path, lines)
    assert [row.miou for row in chosen_rows(table, "A", "b", ("none", "as listed"))] == [1]
    assert [row.miou for row in chosen_rows(table, "A", "b", ("PAMR",))] == [3]
    assert [row.miou for row in chosen_rows(table[2:], "A", "b", ("none", "as listed"))] == [4]


@pytest.mark.parametrize("setting", [{}, {"refine": "pamr"}, {"refine": "sd21"}])
@pytest.mark.parametrize("weights", sorted(WEIGHTS))
def test_no_line_of_the_leaderboard_mixes_sources(weights: str, setting: dict[str, Any]) -> None:
    for name in {row.method for row in read_table()}:
        assert len(sources(name, weights, **setting)) <= 1, name


# --- the cells --------------------------------------------------------------------------------------------------------


def test_clip_dinoiser_has_its_paper_s_row() -> None:
    row = [62.1, 32.4, 34.8, 80.9, 35.9, 24.6, 31.7, 20.0]
    assert values("CLIP-DINOiser", LAION_B) == row
    assert values("CLIP-DINOiser", OPENAI_B) == [None] * 8


def test_tcl_with_and_without_pamr() -> None:
    assert values("TCL (PAMR)", "file tcl.pth") == [55.0, None, 31.6, 83.2, 33.9, 22.4, 24.0, 17.1]
    assert values("TCL", "file tcl.pth") == [51.2, 24.3, 30.4, 77.5, 30.3, 19.6, 23.1, 14.9]
    assert values("TCL", "file mine.pth") == values("TCL", "file tcl.pth", refine="pamr") == [None] * 8


def test_methods_with_weights_of_their_own() -> None:
    three = EIGHT[:3]
    assert values("SegCLIP", "file segclip.bin", *three) == [52.6, 24.7, 26.5]
    assert values("GroupViT", "folder groupvit-gcc-yfcc, pytorch_model.bin", *three) == [52.3, 22.4, 24.3]
    assert values("GroupViT", "file group_vit_gcc_yfcc_30e-879422e0.pth", *three) == [52.3, 22.4, 24.3]
    assert values("GroupViT", "folder groupvit-gcc-redcaps, pytorch_model.bin", *three) == [50.8, 23.7, 27.5]
    assert values("GroupViT", "folder mine, pytorch_model.bin", *three) == [None] * 3
    assert values("OVSeg", OVSEG, "ade20k", "ade847", "pc459", "context59", "voc20") == [29.6, 9.0, 12.4, 55.7, 94.5]
    assert values("OVSeg", "file ovseg_R101c_vitB16_ft_mpt.pth", "ade20k", "ade847", "pc459") == [24.8, 7.1, 11.0]
    assert values("CLIP-DIY", LAION_B32, "voc21", "coco_object", "ade20k") == [59.9, 31.0, None]


def test_one_study_for_maskclip_and_clip() -> None:
    """Cityscapes 12.6 belongs to the study with 38.8 on VOC21, 24.9 to that with 43.4."""
    assert values("MaskCLIP", OPENAI_B) == [43.4, 23.2, 20.6, 74.9, 26.4, 16.7, 24.9, 11.9]
    assert values("MaskCLIP", OPENAI_L) == [None, None, None, 30.1, 12.6, 8.9, 10.1, 6.9]
    assert values("CLIP (vanilla dense)", OPENAI_L) == [None, None, None, 15.8, 4.5, 2.4, 2.9, 1.2]


def test_the_method_s_own_repository() -> None:
    assert values("SCLIP", OPENAI_B, "voc21", "coco_stuff10k") == [59.63, 25.91]
    assert values("NACLIP", OPENAI_B, "voc21", "cityscapes", refine="pamr") == [64.07, 38.27]
    assert values("NACLIP", OPENAI_B, "voc21", "cityscapes") == [58.9, 35.5]
    assert values("ClearCLIP", OPENAI_B, "voc21", "voc20", "cityscapes") == [None, 80.9, 30.0]
    assert values("ClearCLIP", LAION_B, "voc20", "cityscapes") == [81.4, 31.8]


def test_cliper_s_coco_object_stands_beside_the_instances_alone() -> None:
    keys = ("voc21", "coco_object", "coco_object@instances")
    assert values("CLIPer (whole)", OPENAI_B, *keys) == [60.7, None, 36.3]
    assert values("CLIPer (sliding)", OPENAI_L, *keys, refine="sd21") == [72.2, None, 44.7]
    assert values("CLIPer (whole)", OPENAI_B, *keys, refine="sd21", refine_noise="zero") == [None] * 3


def test_nothing_without_a_name_a_data_set_or_weights_that_are_known() -> None:
    assert values(None, OPENAI_B) == values("MaskCLIP", "embedded") == values("MaskCLIP", "") == [None] * 8
    assert values("MaskCLIP", OPENAI_B, "camvid") == values("MaskCLIP", OPENAI_B, "voc20", refine="dino-b8") == [None]


def test_a_file_that_is_openais_by_its_checksum_counts_as_such() -> None:
    plain = {"refine": "none"}
    by_hub = reported("MaskCLIP", "voc21", "hub timm/vit_base_patch16_clip_224.openai@0123456789ab", plain)
    assert by_hub["reported"] is not None
    assert reported("MaskCLIP", "voc21", "file mine.pt, OpenAI's ViT-B-16.pt", plain) == by_hub
    assert reported("MaskCLIP", "voc21", "file mine.pt", plain)["reported"] is None
