"""Words: every shipped list, the defects that lint names and repair mends, shared background phrases, and forms."""

import csv
import hashlib
from pathlib import Path
from typing import Any

import pytest
from open_clip.tokenizer import SimpleTokenizer

import ovss.harness.protocol.words as words
from ovss.datasets import DatasetRecord, find_record
from ovss.harness.protocol.protocol import Setting, lint_setting, load_protocol
from ovss.harness.protocol.words import OUTSIDE, class_texts, list_words, read_list, shared_background, vocabulary_for
from ovss.methods import UserError

FOLDER = Path(words.__file__).parent / "vocabularies"
with (FOLDER / "SOURCES.tsv").open(encoding="utf-8", newline="") as table:
    SOURCES = {row["file"]: row for row in csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)}
LISTS = [(*name.split(".")[:2], row["form"]) for name, row in SOURCES.items() if row["form"] != "phrases"]
"""Key, name and form of every list."""
JOINED = {"ade20k": 15, "coco_stuff": 15, "coco_stuff10k": 15, "cityscapes": 2}
"""How many names SCLIP's lists spell without their blanks."""


def setting(name: str, form: str = "synonyms", **fields: Any) -> Setting:
    return Setting.model_validate({"vocabulary": name, "vocabulary_form": form, **fields})


def shipped(key: str, name: str, **fields: Any) -> Setting:
    """A list as its project reads it."""
    form = SOURCES[f"{key}.{name}.txt"]["form"]
    return setting(name, form, **{"synonym_separator": "" if name in ("detectron2", "tcl") else ", ", **fields})


def findings(found: Setting, key: str) -> list[str]:
    return [text for level, text in lint_setting(found, find_record(key)) if level == "warning"]


def record(*classes: str, **fields: Any) -> DatasetRecord:
    values = {"key": "k", "title": "t", "images": "i", "labels": "l", "classes": classes}
    return DatasetRecord.model_validate({**values, **fields})


# --- every list -----------------------------------------------------------------------------------------------------


def test_every_file_has_a_source_and_is_as_it_was() -> None:
    assert sorted(SOURCES) == sorted(path.name for path in FOLDER.glob("*.txt"))
    for name, row in SOURCES.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == row["sha256"], name
        assert row["project"] and row["note"], name
        assert row["form"] in ("synonyms", "background-first", "fold", "phrases"), name


@pytest.mark.parametrize(("key", "name", "form"), LISTS, ids=lambda v: v)
def test_every_list_speaks_for_the_classes_of_its_data_set(key: str, name: str, form: str) -> None:
    found = find_record(key)
    vocabulary = vocabulary_for(shipped(key, name), found)
    outside = form == "background-first" and found.background is None
    assert vocabulary.classes == (*found.classes, *([OUTSIDE] if outside else []))
    assert set(vocabulary.query_to_class) == set(range(len(vocabulary.classes)))
    assert vocabulary.background == (len(found.classes) if outside else found.background)
    assert not any(";" in query for query in vocabulary.queries)
    assert [query for query in vocabulary.queries if query != query.strip()] == (["bed "] if name == "tcl" else [])
    assert name in list_words(key) and name in list_words(f"{key}@elsewhere")


@pytest.mark.parametrize(("key", "name", "form"), LISTS, ids=lambda v: v)
def test_repair_leaves_nothing_to_find_and_changes_no_clean_list(key: str, name: str, form: str) -> None:
    plain, mended = shipped(key, name), shipped(key, name, repair=True)
    texts = [class_texts(found, find_record(key))[0] for found in (plain, mended)]
    before, after = findings(plain, key), findings(mended, key)
    if not before:
        assert texts[0] == texts[1]
    elif name != "detectron2":  # its long lines are one text on purpose
        assert texts[0] != texts[1]
        assert after == []
    assert all(texts[1])


def test_words_of_groupvit_segclip_and_tcl() -> None:
    """What differs from the data sets' own names, class by class."""
    expected = {
        ("groupvit", "voc21"): {"diningtable": "table", "pottedplant": "plant", "tvmonitor": "monitor"},
        ("groupvit", "context60"): {"aeroplane": "airplane", "pottedplant": "plant", "tvmonitor": "monitor"},
        ("groupvit", "coco_object"): {},
        ("tcl-original", "ade20k"): {"bed": "bed "},
        **{("tcl-original", key): {} for key in ("voc21", "voc20", "context60", "context59", "coco_object")},
        ("clip-diy", "voc21"): {"pottedplant": "potted plant", "tvmonitor": "tv/monitor"},
        ("clip-diy", "coco_object"): {},
    }
    expected |= {("segclip", key): found for (name, key), found in expected.items() if name == "groupvit"}
    for (name, key), differences in expected.items():
        found = find_record(key)
        vocabulary = vocabulary_for(load_protocol(name).setting(key), found)
        words_of = {found.classes[k]: q for k, q in zip(vocabulary.query_to_class, vocabulary.queries, strict=True)}
        assert {k: q for k, q in words_of.items() if k != q} == differences, (name, key)
        assert set(found.classes) - set(words_of) <= {"background"}


def test_the_blank_behind_bed_reaches_the_tokens() -> None:
    """In 'a photo of beds.' the word is another one than in 'a photo of bed s.'; elsewhere blanks do not matter."""
    found = vocabulary_for(load_protocol("tcl-original").setting("ade20k"), find_record("ade20k"))
    prompts = [template.format(found.queries[7]) for template in found.templates]
    plain = [template.format("bed") for template in found.templates]
    tokens, usual = SimpleTokenizer()(prompts), SimpleTokenizer()(plain)
    assert [a for a, b, c in zip(plain, tokens, usual, strict=True) if not b.equal(c)] == ["a photo of beds."]


# --- known defects --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sclip", "proxyclip"])
def test_bed_is_taken_away_by_the_background(name: str) -> None:
    found = findings(setting(name), "coco_object")
    assert found == [
        "'bed' speaks for 'background' and 'bed': 'bed' loses every tie",
        "can never win, as each text of theirs speaks for an earlier class too: 'bed'",
    ]
    assert any("repair=true" in text for _, text in lint_setting(setting(name), find_record("coco_object")))
    assert lint_setting(setting(name, repair=True), find_record("coco_object")) == []
    assert lint_setting(setting("corrclip"), find_record("coco_object")) == []


def test_repair_of_bed_removes_one_word() -> None:
    coco = find_record("coco_object")
    plain, mended = (class_texts(setting("sclip", repair=repair), coco)[0] for repair in (False, True))
    assert [k for k in range(81) if plain[k] != mended[k]] == [0]
    assert plain[0].index("bed") == 11
    assert mended[0] == plain[0][:11] + plain[0][12:]
    assert mended[coco.classes.index("bed")] == ["bed"]


def test_cliptrase_lacks_a_comma_and_says_bed_twice() -> None:
    assert findings(setting("cliptrase"), "voc21") == [
        "'bed' stands twice for 'background': it counts double",
        "'beachhill' lacks a comma between beach and hill",
    ]
    voc = find_record("voc21")
    plain, mended = (class_texts(setting("cliptrase", repair=repair), voc)[0] for repair in (False, True))
    assert (len(plain[0]), len(mended[0])) == (33, 33)  # one bed less, one word more
    assert mended[0].count("bed") == 1
    assert mended[0][mended[0].index("ground") + 1 :] == ["beach", "hill", "rail", "fence"]
    assert plain[1:] == mended[1:]


@pytest.mark.parametrize("key", JOINED)
def test_joined_words(key: str) -> None:
    found, official = findings(setting("sclip"), key), find_record(key).classes
    assert len(found) == 1 and f"({JOINED[key]})" in found[0] and "'trafficlight'" in found[0]
    plain, mended = (class_texts(setting("sclip", repair=repair), find_record(key))[0] for repair in (False, True))
    changed = [k for k in range(len(official)) if plain[k] != mended[k]]
    assert len(changed) == JOINED[key]
    for k in changed:
        assert mended[k] == [official[k]] and plain[k] == [official[k].replace(" ", "")]


def test_spaced_words_are_no_finding() -> None:
    assert findings(setting("clip_dinoiser"), "coco_object") == []
    assert "traffic light" in vocabulary_for(setting("sclip"), find_record("coco_object")).queries
    for key in ("ade20k", "coco_stuff", "cityscapes", "coco_object"):
        assert findings(Setting(), key) == []


def test_joined_words_of_another_class_are_no_finding() -> None:
    """A class may have a synonym that is another class's name without its blanks (ade847: postbox, post box)."""
    both = record("postbox, mailbox", "post box")
    assert lint_setting(Setting(), both) == []
    assert class_texts(Setting(repair=True), both)[0] == [["postbox", "mailbox"], ["post box"]]


def test_classes_that_lose_all_of_their_texts() -> None:
    shared = record("toilet, stool", "stool", "Stool , bar stool", "pot", "toilet, pot")
    found = [text for _, text in lint_setting(Setting(), shared) if "never win" in text]
    assert found == ["can never win, as each text of theirs speaks for an earlier class too: 'stool', 'toilet, pot'"]
    mended = class_texts(Setting(repair=True), shared)[0]
    assert mended == class_texts(Setting(), shared)[0]  # whose the text is cannot be known
    assert not any(level == "info" for level, _ in lint_setting(Setting(), shared))


def test_repair_keeps_order_and_the_first_spelling() -> None:
    mixed = record("background", "sofa bed", background=0)
    texts = [["Sky", "bed", "sky", "sofabed", "hill"], ["sofabed", "couch", "Couch"]]
    assert words.mend(texts, mixed, 0) == [["Sky", "bed", "sofabed", "hill"], ["sofa bed", "couch"]]
    assert words.mend([["sky", "Couch"], ["couch"]], mixed, 0) == [["sky"], ["couch"]]
    assert words.mend([["couch"], ["couch"]], mixed, None) == [["couch"], ["couch"]]


# --- separators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [", ", ""])
def test_the_wrong_separator_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str) -> None:
    (tmp_path / "k.semicolons.txt").write_text("sky; wall; tree\ncat\n")
    (tmp_path / "k.commas.txt").write_text("sky, wall, tree, wood, grass, road\ncat\n")
    monkeypatch.setattr(words, "_FOLDER", tmp_path)
    two = record("background", "cat", background=0)
    found = lint_setting(setting("semicolons", synonym_separator=separator), two)
    assert found == [("warning", "'sky; wall; tree' looks like a list: is the separator right?")]
    assert lint_setting(setting("semicolons", synonym_separator="; "), two) == []
    assert lint_setting(setting("commas"), two) == []
    swapped = lint_setting(setting("commas", synonym_separator="; "), two)
    assert [level for level, _ in swapped] == ["warning"] and "separator" in swapped[0][1]


def test_the_separator_decides_how_many_texts_there_are() -> None:
    coco = find_record("coco_object")
    counts = {s: len(vocabulary_for(setting("sclip", synonym_separator=s), coco).queries) for s in (", ", ",", "; ")}
    assert counts == {", ": 113, ",": 113, "; ": 81}
    assert "person in jeans" in vocabulary_for(setting("sclip", synonym_separator=","), coco).queries


def test_official_names_that_are_lists_are_one_text_if_the_protocol_says_so() -> None:
    tiny = record("toilet, can, commode, crapper, pot, potty", "cat")
    assert lint_setting(Setting(synonym_separator=""), tiny) == []
    assert len(vocabulary_for(Setting(synonym_separator=""), tiny).queries) == 2
    assert len(vocabulary_for(Setting(), tiny).queries) == 7


# --- background -----------------------------------------------------------------------------------------------------

ALL_PHRASES = [
    *("background", "building", "ceiling", "floor", "ground", "plant", "raw material", "sky", "solid"),
    *("structural", "textile", "wall", "water", "window"),
]
LEFT = {
    "voc21": ALL_PHRASES,
    "coco_object": ALL_PHRASES,
    "context60": ["background", "plant", "raw material", "solid", "structural", "textile"],
}


@pytest.mark.parametrize("key", LEFT)
def test_shared_background(key: str) -> None:
    found = find_record(key)
    texts, background = class_texts(load_protocol("unified").setting(key), found)
    assert background == 0 and texts[0] == LEFT[key]
    others = {text for line in texts[1:] for text in line}
    assert not others & set(texts[0])
    assert set(ALL_PHRASES) - set(texts[0]) == set(ALL_PHRASES) & others
    assert texts[1:] == class_texts(Setting(), found)[0][1:]
    assert findings(load_protocol("unified").setting(key), key) == []


def test_shared_phrases_are_names_of_coco_stuff() -> None:
    assert list(shared_background()) == ALL_PHRASES
    groups = set(find_record("coco_stuff27").classes)
    assert set(ALL_PHRASES) - {"background"} <= groups | {"raw material"}


@pytest.mark.parametrize("words_of", ["official", "shared", "none"])
def test_background_words_do_nothing_without_a_background(words_of: str) -> None:
    for key in ("voc20", "coco_stuff", "camvid"):
        found = Setting.model_validate({"background_words": words_of})
        assert vocabulary_for(found, find_record(key)).hash == vocabulary_for(Setting(), find_record(key)).hash


def test_mess_keeps_its_own_wording() -> None:
    unified = load_protocol("unified")
    assert unified.setting("voc21").background_words == "shared"
    for key in ("mess_dram", "mess_isaid", "mess_anything"):
        assert unified.setting(key).background_words == "official"
    texts, background = class_texts(unified.setting("mess_dram"), find_record("mess_dram"))
    assert background == 11 and texts[11] == ["background"]
    assert class_texts(unified.setting("mess_isaid"), find_record("mess_isaid"))[0][0] == ["others"]


def test_shared_phrases_also_replace_the_words_of_a_list() -> None:
    texts, _ = class_texts(setting("sclip", background_words="shared"), find_record("coco_object"))
    assert texts[0] == ALL_PHRASES and texts[1][0] == "person" and len(texts[1]) == 8
    for key, index in (("coco_object", 0), ("voc20", 20)):
        found = setting("cliper", "background-first", background_words="shared")
        texts, background = class_texts(found, find_record(key))
        assert background == index and texts[index] == ALL_PHRASES


def test_no_background_words() -> None:
    voc = find_record("voc21")
    plain, bare = (Setting.model_validate({"background_words": kind}) for kind in ("official", "none"))
    by_threshold = Setting(background_words="none", probability_threshold=0.4)
    vocabulary = vocabulary_for(by_threshold, voc)
    assert vocabulary.background == 0 and 0 not in vocabulary.query_to_class and len(vocabulary.classes) == 21
    assert by_threshold.rule(vocabulary.background).probability_threshold == 0.4
    assert vocabulary.queries == vocabulary_for(plain, voc).queries[1:]
    assert lint_setting(by_threshold, voc) == []
    assert ["no text" in text for _, text in lint_setting(bare, voc)] == [True]
    gated = Setting(background_words="none", average="probability", class_scaling="max", class_gate=0.3)
    assert lint_setting(gated, voc) == []


# --- forms ----------------------------------------------------------------------------------------------------------


def test_background_first_gives_one_class_more_where_there_is_no_background() -> None:
    voc = find_record("voc20")
    vocabulary = vocabulary_for(setting("cliper", "background-first"), voc)
    assert vocabulary.classes == (*voc.classes, OUTSIDE) and vocabulary.background == 20
    assert vocabulary.query_to_class[:20] == tuple(range(20))
    assert vocabulary.query_to_class[20:] == (20,) * 25
    assert vocabulary.queries[20] == "ground" and vocabulary.queries[-1] == "sign"
    # A line is one text, commas included.
    assert vocabulary.queries[voc.classes.index("person")] == "person with clothes, people, human"


def test_background_first_where_there_is_a_background() -> None:
    voc = find_record("voc21")
    vocabulary = vocabulary_for(setting("cliper", "background-first"), voc)
    assert vocabulary.classes == voc.classes and vocabulary.background == 0
    assert vocabulary.query_to_class == (*(0,) * 25, *range(1, 21))


def test_background_first_with_a_background_that_is_not_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k.mine.txt").write_text("sky, wall\ncat, kitten\ndog\n")
    monkeypatch.setattr(words, "_FOLDER", tmp_path)
    found = record("cat", "rest", "dog", background=1)
    assert class_texts(setting("mine", "background-first"), found) == ([["cat, kitten"], ["sky", "wall"], ["dog"]], 1)


def test_fold_puts_what_is_left_into_the_last_class() -> None:
    voc = find_record("voc20b")
    vocabulary = vocabulary_for(setting("catseg", "fold"), voc)
    assert vocabulary.classes == voc.classes and vocabulary.background == 20
    assert vocabulary.query_to_class == (*range(20), *(20,) * 39)
    assert vocabulary.queries[20:22] == ("bag", "bed")


def test_lists_that_are_not_there_or_do_not_fit() -> None:
    with pytest.raises(
        UserError, match=r"'slcip' for data set 'voc21'; did you mean sclip\? Known: clearclip, .*sclip"
    ):
        vocabulary_for(setting("slcip"), find_record("voc21"))
    with pytest.raises(UserError, match=r"'sclip' for data set 'camvid'\. Known: official\."):
        vocabulary_for(setting("sclip"), find_record("camvid"))
    with pytest.raises(UserError, match="read as 'synonyms', speaks for 21 classes, data set 'voc20' has 20"):
        vocabulary_for(setting("cliper"), find_record("voc20"))
    with pytest.raises(UserError, match=r"read as 'background-first', speaks for 19 .* has 20"):
        vocabulary_for(setting("sclip", "background-first"), find_record("voc20"))
    short = record(*map(str, range(60))).model_copy(update={"key": "voc20b"})
    with pytest.raises(UserError, match="read as 'fold', speaks for 59 classes, data set 'voc20b' has 60"):
        vocabulary_for(setting("catseg", "fold"), short)


def test_a_list_that_is_read_in_another_form_than_its_own_is_reported() -> None:
    (text,) = [t for t in findings(setting("cliper"), "voc21") if "form" in t]
    assert "of the form 'background-first', but read as 'synonyms'" in text
    assert "--set vocabulary_form=background-first" in text
    assert not [t for t in findings(shipped("voc21", "cliper"), "voc21") if "form" in t]


def test_lists_are_found_whatever_the_ground_truth() -> None:
    assert read_list("coco_object@instances", "sclip") == read_list("coco_object", "sclip")
    assert list_words("camvid") == [] and list_words("voc") == []


# --- hashes ---------------------------------------------------------------------------------------------------------


def test_equal_words_have_one_hash_and_other_words_another() -> None:
    hashes: dict[str, list[str]] = {}
    for name in ("official", *list_words("voc20")):
        if name != "cliper":
            vocabulary = vocabulary_for(setting(name), find_record("voc20"))
            hashes.setdefault(vocabulary.hash, []).append(name)
    assert sorted(hashes.values()) == [
        ["clearclip", "proxyclip"],
        *[[n] for n in sorted(("clip_dinoiser", "corrclip", "maskclip", "official", "sclip"))],
    ]
    assert (
        vocabulary_for(setting("sclip"), find_record("context59")).hash
        == vocabulary_for(Setting(), find_record("context59")).hash
    )


def test_repair_moves_the_hash_of_the_words_only_where_it_mends() -> None:
    for key, mends in (("coco_object", True), ("voc21", False), ("ade20k", True)):
        plain, mended = (vocabulary_for(setting("sclip", repair=r), find_record(key)).hash for r in (False, True))
        assert (plain != mended) == mends
    assert setting("sclip").hash != setting("sclip", repair=True).hash
