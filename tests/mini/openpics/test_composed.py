"""Task 7's changes: names that differ in one place, said shortly."""

from puma.mini.openpics.composed import pairs
from puma.mini.openpics.library import Ids, Library, Shown
from puma.mini.openpics.records import ImageRecord


def library(*names: str) -> Library:
    shown = [Shown(ImageRecord(f"a/{n}", "a", "A", n), f"{n}.webp", n, n, "train") for n in names]
    return Library(shown, Ids(), sides=False, common=frozenset())


def test_what_changes_is_said_and_nothing_else() -> None:
    found = set(
        pairs(
            library(
                "red heart",
                "blue heart",
                "cat",
                "cat with wry smile",
                "man running",
                "woman running",
                "hot dog",
                "hot pepper",
            )
        )
    )
    assert ("red heart", "blue heart", "but blue") in found
    assert ("blue heart", "red heart", "but red") in found
    assert ("cat", "cat with wry smile", "but with wry smile") in found
    assert ("cat with wry smile", "cat", "without wry smile") in found
    assert ("man running", "woman running", "but a woman") in found
    assert not any("hot" in one for one, _, _ in found), "other things that share a word are no change"


def test_flags_and_whole_names_are_no_change() -> None:
    assert pairs(library("flag of spain", "flag of spain galicia")) == []
    assert all("honeybee" not in text for *_, text in pairs(library("drone", "hoverfly resembles a honeybee drone")))


def test_a_frame_that_many_fill_is_a_category() -> None:
    assert pairs(library(*(f"kind{n} ball" for n in range(40)))) == []
