"""The page of the words has all of them, and no others."""

from __future__ import annotations

import re
from importlib import resources

from lineage.relation import ADDS_NOTHING, DECLARED_ONLY, HOW, Relation

PAGE = (resources.files("lineage") / "spec" / "relations-v1.md").read_text(encoding="utf-8")


def words_of(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def test_the_page_has_every_relation_with_its_details() -> None:
    found: dict[str, list[str]] = {}
    for line in PAGE.splitlines():
        if line.startswith("|") and line.count("|") == 4:
            first, second, _ = line.strip("|").split("|")
            for relation in words_of(first):
                found[relation] = []
            if found:
                found[list(found)[-1]] += words_of(second)
    assert list(found) == [str(relation) for relation in Relation]
    assert found == {str(relation): list(HOW.get(relation, ())) for relation in Relation}


def test_the_page_says_what_is_declared_and_what_adds_nothing() -> None:
    rules = re.findall(r"^\d\. (.*?)(?=^\d\.|^#)", PAGE, re.MULTILINE | re.DOTALL)
    assert set(words_of(rules[1])) == DECLARED_ONLY
    assert set(words_of(rules[3])) == ADDS_NOTHING
