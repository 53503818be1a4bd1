"""The lint of words: what is odd about a text, classes that become one, texts that are cut, what is known."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from ovss.datasets import DatasetRecord, find_record, list_datasets
from ovss.harness.protocol.protocol import Setting, lint_setting, list_protocols, load_protocol
from ovss.harness.protocol.token_lint import context_of, count_tokens, lint_tokens, lost_words, openai_tokenizer
from ovss.harness.protocol.word_lint import lint_words
from ovss.harness.protocol.words import vocabulary_for
from ovss.harness.runs.pipeline import Pipeline
from ovss.methods import UserError, create_method
from ovss.methods.core.tokenizer import Tokenizer

PLAIN = Setting(templates="simple")
"""One template: a photo of a {}."""


def record(*classes: str, **fields: Any) -> DatasetRecord:
    values = {"key": "k", "title": "t", "images": "i", "labels": "l", "classes": classes}
    return DatasetRecord.model_validate({**values, **fields})


def findings(*classes: str, setting: Setting = PLAIN, **fields: Any) -> list[tuple[str, str]]:
    return lint_setting(setting, record(*classes, **fields), openai_tokenizer())


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("# names", "begins with '#'"),
        ("0: cat", "begins with a number"),
        ("12 cat", "begins with a number"),
        ("3\tcat", "begins with a number"),
        ("traffic_light", "holds '_'"),
        ("TrafficLight", "CamelCase"),
        ("cat,dog", "holds ',' without a blank"),
        ("cat\x1b[2J", "control or an invisible character"),
        ("cat\u202e", "control or an invisible character"),
        ("\ufeffcat", "control or an invisible character"),
        ("cat  dog", "two in a row"),
        ("caf\ufffd", "wrong encoding"),
        ("cafÃ©", "wrong encoding"),
        ("&lt;cat&gt;", "escape of HTML"),
        ("cat<end_of_text>", "token of CLIP's own"),
        ('"cat"', "quotes or brackets"),
        ("cat:", "mark of punctuation"),
        ("17", "holds no letter"),
    ],
)
def test_odd_texts_are_shown_with_their_prompt(name: str, what: str) -> None:
    found = [text for level, text in findings(name, "sofa") if level == "warning"]
    assert any(what in text and f"{f'a photo of a {name}.'!r}" in text for text in found), found


@pytest.mark.parametrize(
    "name",
    [
        "cat",
        "traffic light",
        "TV",
        "tv/monitor",
        "dining-table",
        "café",
        "猫",
        "3d printer",
        "person (standing)",
        "mother's",
    ],
)
def test_usual_texts_are_no_finding(name: str) -> None:
    assert findings(name, "sofa, couch") == []


def test_many_odd_texts_are_one_finding() -> None:
    ((level, text),) = findings(*(f"name_{k}x" for k in "abcde"))
    assert level == "warning" and "(5)" in text and "'name_cx'" in text and "'name_dx'" not in text
    assert text.endswith("; and 2 more")


def test_the_blank_after_a_comma_depends_on_the_separator() -> None:
    assert findings("cat,kitten", setting=Setting(templates="simple", synonym_separator=",")) == []
    assert "without a blank" in findings("cat,kitten")[0][1]
    assert findings("cat,kitten", setting=Setting(templates="simple", synonym_separator="")) == []


@pytest.mark.parametrize("name", ["background", "Unlabeled", "VOID", "_background_", "no data", "others"])
def test_an_undeclared_background(name: str) -> None:
    said = [text for _, text in lint_words(PLAIN, record("cat", name)) if "scored like any other" in text]
    assert len(said) == 1 and "`background = 1`" in said[0] and "`label_map = { 1 = 255 }`" in said[0]
    assert not [t for _, t in lint_words(PLAIN, record("cat", name, background=1)) if "scored like" in t]


def test_class_names_with_blanks() -> None:
    assert [text for _, text in findings(" cat", "sofa ")] == [
        "class names begin or end with a blank (2): ' cat', 'sofa '"
    ]


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_whole() -> None:
    """'a photo of a cat.' is 6 tokens and two marks; 75 times 'cat' and the template do not fit into 77."""
    tokenizer = openai_tokenizer()
    assert context_of(tokenizer) == 77
    many = " ".join(["cat"] * 75)
    found = count_tokens(vocabulary_for(PLAIN, record("cat", many)), tokenizer)
    assert [(t.class_index, t.text, t.tokens) for t in found] == [(0, "cat", 8), (1, many, 82)]
    assert found[0].prompt == "a photo of a cat."


def test_the_longest_template_counts() -> None:
    found = count_tokens(vocabulary_for(Setting(), record("cat")), openai_tokenizer())
    every = [len(t.format("cat").split()) for t in vocabulary_for(Setting(), record("cat")).templates]
    rows = openai_tokenizer()([t.format("cat") for t in vocabulary_for(Setting(), record("cat")).templates])
    assert found[0].tokens == int((rows != 0).sum(1).max()) > max(every)


def test_a_text_that_just_fits_is_not_cut() -> None:
    for count, cut in ((70, False), (71, True)):  # 7 others: start, a, photo, of, a, the full stop, end
        found = findings(" ".join(["cat"] * count), "sofa")
        assert bool(found) == cut
    assert found[0][0] == "warning" and "has 78 tokens in its prompt" in found[0][1]


def test_what_is_cut_is_said() -> None:
    tokenizer = openai_tokenizer()
    assert lost_words("a photo of a cat.", tokenizer) == ""
    long = " ".join(["cat"] * 80) + " with a long tail"
    assert lost_words(long, tokenizer) == "cat cat cat cat cat with a long tail"  # 75 of 80 are read
    (text,) = [text for level, text in findings(long, "sofa") if level == "warning"]
    assert "with a long tail" in text and "77 tokens are read" in text


def test_classes_that_the_cut_makes_one_are_an_error() -> None:
    head = " ".join(["cat"] * 80)
    found = findings(f"{head} left", f"{head} right")
    assert [level for level, _ in found] == ["error", "warning"]
    assert "are the same tokens: class 1 loses every tie" in found[0][1]


def test_classes_that_are_one_in_some_templates_are_a_warning() -> None:
    head = " ".join(["cat"] * 68)
    found = findings(f"{head} left", f"{head} right", setting=Setting())
    assert {level for level, _ in found} == {"warning"}
    assert any("of 80 templates, as they are cut" in text for _, text in found)


@pytest.mark.parametrize(
    ("first", "second"),
    [("dining-table", "dining - table"), ("cat", "CAT"), ("tv &amp; radio", "tv & radio"), ("a  cat", "a cat")],
)
def test_spellings_with_the_same_tokens_are_an_error(first: str, second: str) -> None:
    errors = [text for level, text in findings(first, second) if level == "error"]
    assert len(errors) == 1 and "--set allow_shared_texts=true" in errors[0]
    meant = findings(first, second, setting=Setting(templates="simple", allow_shared_texts=True))
    assert "error" not in {level for level, _ in meant} and any("every tie" in text for _, text in meant)


def test_one_class_may_say_a_text_twice() -> None:
    assert [level for level, _ in findings("dining-table, dining - table", "sofa")] == []


class _Short:
    """Ten words are read and nothing is said of more: a tokenizer that takes texts alone."""

    def __call__(self, texts: list[str]) -> Tensor:
        rows = [[1 + sum(map(ord, word)) for word in text.split()][:10] for text in texts]
        return torch.tensor([row + [0] * (10 - len(row)) for row in rows])


def test_a_tokenizer_that_takes_texts_alone() -> None:
    six = " ".join("abcdef")
    assert lint_tokens(PLAIN, record("cat", six), _Short()) == []  # 4 + 6 words fill it
    ((level, text),) = lint_tokens(PLAIN, record("cat", f"{six} g"), _Short())
    assert level == "warning" and "has more in its prompt" in text and "'g.' is not read" in text
    found = lint_tokens(PLAIN, record(f"{six} g", f"{six} h"), _Short())
    assert found[0][0] == "error"


# --- methods ----------------------------------------------------------------------------------------------------------


def test_a_method_is_asked_with_its_own_tokenizer() -> None:
    """tiny-clip reads 32 tokens, OpenAI's CLIP 77: what is one class for the first is two for the second."""
    head = " ".join(["cat"] * 40)
    method = create_method("clip", backbone="tiny-clip")
    assert method.prompt_tokenizer is not None and context_of(method.prompt_tokenizer) == 32
    two = record(f"{head} left", f"{head} right")
    assert "error" not in {level for level, _ in lint_setting(PLAIN, two, openai_tokenizer())}
    with pytest.raises(UserError, match=r"the words for k cannot be used:\n.*are the same tokens"):
        Pipeline(method, PLAIN, two)
    cut = Pipeline(method, PLAIN, record(f"{head} left", "sofa"))
    assert [level for level, _ in cut.findings] == ["warning"] and "32 tokens are read" in cut.findings[0][1]


# --- what is shipped --------------------------------------------------------------------------------------------------


def test_no_shipped_protocol_is_refused_on_shipped_data() -> None:
    """Also after tokenisation; nothing is cut, and what two classes share is known (vocabularies/KNOWN.tsv)."""
    seen, tokenizer = set(), _each_text_once(openai_tokenizer())
    for name in list_protocols():
        protocol = load_protocol(name)
        for key, found in list_datasets().items():
            vocabulary = vocabulary_for(protocol.setting(key), found).hash
            if vocabulary in seen:
                continue
            seen.add(vocabulary)
            said = lint_tokens(protocol.setting(key), found, tokenizer)
            assert all(level == "warning" and "loses every tie" in text for level, text in said), (name, key, said)
            assert not said or key in ("coco_object", "ade847"), (name, key)


def _each_text_once(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokens; most lists share their words with others."""

    @cache
    def row(text: str, context_length: int) -> torch.Tensor:
        return tokenizer([text], context_length=context_length)[0]  # type: ignore[call-arg]  # those of open_clip take it

    def rows(texts: list[str], context_length: int = 77) -> torch.Tensor:
        return torch.stack([row(text, context_length) for text in texts])

    return rows


def test_what_is_known_of_one_list_is_an_error_in_another() -> None:
    coco = find_record("coco_object")
    sclip = Setting(vocabulary="sclip")
    assert {level for level, _ in lint_words(sclip, coco)} == {"warning", "info"}
    own = record("background, bed", "bed", background=0)
    assert [level for level, _ in lint_words(Setting(), own)] == ["error", "warning", "info"]
    mmseg = own.model_copy(update={"key": "mmseg_cfg_coco_object"})
    assert "error" not in {level for level, _ in lint_words(Setting(), mmseg)}
