"""Vocabularies: parsing, lint, hash, templates."""

from dataclasses import replace

import open_clip
import pytest

from ovss.methods import UserError, Vocabulary
from ovss.methods.core.vocabulary import list_templates, load_templates


def levels(vocabulary: Vocabulary) -> list[str]:
    return [level for level, _ in vocabulary.lint()]


def test_synonyms_speak_for_their_class() -> None:
    v = Vocabulary.from_names(["sky, wall", "person", "tv , monitor"], templates="simple", background=0)
    assert v.classes == ("sky", "person", "tv")
    assert v.queries == ("sky", "wall", "person", "tv", "monitor")
    assert v.query_to_class == (0, 0, 1, 2, 2)
    assert v.background == 0
    assert v.lint() == []


def test_separators() -> None:
    assert Vocabulary.from_names(["tree, hedge"], separator=None).queries == ("tree, hedge",)
    assert Vocabulary.from_names(["tree; hedge"], separator="; ").queries == ("tree", "hedge")


def test_display_names() -> None:
    v = Vocabulary.from_names(["sky, wall", "ship"], classes=["background", "boat"])
    assert v.classes == ("background", "boat")
    assert v.queries == ("sky", "wall", "ship")


@pytest.mark.parametrize(
    ("names", "options", "complaint"),
    [
        ([], {}, "no class"),
        (["cat", ""], {}, "empty text"),
        (["cat, "], {}, "empty text"),
        (["cat"], {"background": 1}, "background is class 1"),
        (["cat"], {"background": -1}, "background is class -1"),
        (["cat"], {"templates": ["no place"]}, "exactly once"),
        (["cat"], {"templates": ["{} and {}"]}, "exactly once"),
        (["cat"], {"templates": []}, "no template"),
        (["cat", "dog"], {"classes": ["cat"]}, "1 class names"),
        (["cat"], {"templates": "openai81"}, "did you mean openai80"),
    ],
)
def test_what_cannot_be_used_is_refused(names: list[str], options: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Vocabulary.from_names(names, **options)  # type: ignore[arg-type]


def test_text_of_two_classes_is_a_warning() -> None:
    v = Vocabulary.from_names(["chair", "Chair "])
    ((level, text),) = v.lint()
    assert level == "warning"
    assert "loses every tie" in text
    ((level, text),) = Vocabulary.from_names(["chair, chair"]).lint()  # no tie, but the softmax counts it twice
    assert level == "warning" and "counts double" in text


def test_a_list_that_was_not_split_is_a_warning() -> None:
    assert levels(Vocabulary.from_names(["sky; wall; tree"])) == ["warning"]
    assert levels(Vocabulary.from_names(["sky, wall, tree, wood, grass, road"], separator="; ")) == ["warning"]


def test_hash_sees_every_field() -> None:
    v = Vocabulary.from_names(["sky, wall", "cat"], templates="simple", background=0)
    assert v.hash == Vocabulary.from_names(["sky, wall", "cat"], templates="simple", background=0).hash
    others = [
        replace(v, background=None),
        replace(v, classes=("background", "cat")),
        replace(v, queries=("sky", "walls", "cat")),
        replace(v, query_to_class=(0, 1, 1)),
        replace(v, templates=("a {}.",)),
        replace(v, queries=v.queries[::-1]),
    ]
    assert len({v.hash, *(o.hash for o in others)}) == 7


def test_shipped_templates() -> None:
    assert {"openai80", "simple", "subset7"} <= set(list_templates())
    assert len(load_templates("openai80")) == 80
    assert len(load_templates("subset7")) == 7
    for name in list_templates():
        assert all(t.count("{}") == 1 for t in load_templates(name))


def test_openai80_is_open_clips_list() -> None:
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    assert open_clip.OPENAI_IMAGENET_TEMPLATES is OPENAI_IMAGENET_TEMPLATES
    assert load_templates("openai80") == tuple(t("{}") for t in OPENAI_IMAGENET_TEMPLATES)
