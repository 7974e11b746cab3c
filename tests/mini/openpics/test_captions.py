"""Names, keywords and the keys that tell whether two names are one thing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puma.mini.openpics import captions as c


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("A red fox.", "red fox"),
        ("Tigre02", "tigre"),
        ("ice_cream_cone", "ice cream cone"),
        ("crawfish (b and w)", "crawfish"),
        ("pin - green", "pin green"),
        ("hat - clothing", "hat"),
        ("clipart of an old man", "old man"),
        ("Rubik&#39;s Cube", "rubik's cube"),
        ("<b>house</b>  01", "house"),
        ("“school crossing”", "school crossing"),
        ("   ", ""),
        ("...", ""),
    ],
)
def test_short_names(title: str, name: str) -> None:
    assert c.short_name(title) == name


@given(st.text(max_size=60))
def test_any_text_gives_a_tidy_name(text: str) -> None:
    name = c.short_name(text)
    assert name == name.strip()
    assert "  " not in name
    assert "\n" not in name
    assert len(name.split()) <= c.MAX_WORDS
    c.concept_key(name), c.family_key(name), c.head(name)


def test_junk_keywords_say_nothing() -> None:
    assert [c.keyword(k) for k in ("Clip_Art", "HASH(0x81)", "", "me@home.org", "at", "1234", "x" * 40)] == [""] * 7
    assert c.keyword(" Farm_Animal ") == "farm animal"


def test_one_thing_has_one_concept_key() -> None:
    assert c.concept_key("The red Foxes") == c.concept_key("a red fox")
    assert c.concept_key("cherries") == c.concept_key("cherry")
    assert c.concept_key("red fox") != c.concept_key("fox")
    assert c.concept_key("glass") != c.concept_key("glas")


@pytest.mark.parametrize(
    "names",
    [
        ("man farmer", "woman farmer", "farmer", "farmer, dark skin tone", "man farmer, medium-light skin tone"),
        ("man running", "women running", "person running"),
        ("sign for the letter a in american sign language", "sign for the letter z in american sign language"),
        ("clock 3", "clock 7"),
    ],
)
def test_genders_tones_and_series_have_one_family_key(names: tuple[str, ...]) -> None:
    assert len({c.family_key(name) for name in names}) == 1


def test_heads() -> None:
    heads = {name: c.head(name) for name in ("brown dog", "cup of tea", "dogs in a row", "woman", "face, blowing kiss")}
    assert heads == {
        "brown dog": "dog",
        "cup of tea": "cup",
        "dogs in a row": "dog",
        "woman": "person",
        "face, blowing kiss": "face",
    }


@given(
    st.lists(st.sampled_from(["run", "running", "runner", "cat", "cats", "dog", "the", "of", "a", "box"]), max_size=8)
)
def test_no_shared_word_is_left(drawn: list[str]) -> None:
    left = c.without_shared_words(" ".join(drawn), "cat runs")
    assert not {c.stem(word) for word in left.split()} & {c.stem("cat"), c.stem("runs")}


def test_keywords_that_share_a_word_or_lie_in_the_name_go() -> None:
    keywords = ("racing", "vehicle", "cars", "race", "fast car", "speed")
    assert c.distinct_keywords(keywords, "racing car") == ("vehicle", "speed")
    assert c.distinct_keywords(("fire", "hydrant"), "firetruck") == ("hydrant",)
