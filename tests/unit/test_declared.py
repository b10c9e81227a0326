"""What a card says of its parents is read as written, and a broken card is one error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineage.declared import Declaration, read_declared
from lineage.declared.hub_card import read_card
from lineage.errors import FormatError


def card(folder: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    (folder / "README.md").write_bytes(data)
    return folder


def parents(folder: Path) -> list[tuple[str, str | None]]:
    return [(d.parent, d.relation) for d in read_declared(folder)]


def test_one_parent_and_its_relation(tmp_path: Path) -> None:
    card(tmp_path, "---\nbase_model: org/base\nbase_model_relation: adapter\n---\n\n# Words\n")
    assert read_declared(tmp_path) == (Declaration("org/base", "adapter", "README.md: base_model"),)
    assert read_declared(str(tmp_path)) == read_declared(tmp_path)


def test_several_parents_in_their_order(tmp_path: Path) -> None:
    card(tmp_path, "---\nbase_model:\n- b\n- a\nbase_model_relation: merge\n---\n")
    assert parents(tmp_path) == [("b", "merge"), ("a", "merge")]


@pytest.mark.parametrize(
    "text",
    [
        "\n\n---\nbase_model: base\n---\n",
        "---\r\nbase_model: base\r\n---\r\nwords",
        "---  \nbase_model: base\n---",
        "---\n# a comment\nbase_model: 'base'\nmodel-index:\n- a: 1.5\n---\nbase_model: other\n",
        "---\nbase_model: base\n---\n---\nbase_model: other\n---\n",
    ],
)
def test_front_matter_as_people_write_it(tmp_path: Path, text: str) -> None:
    assert parents(card(tmp_path, text)) == [("base", None)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# Words\n",
        "words\n---\nbase_model: base\n---\n",
        "---\nbase_model: base\n",
        "---\n- a list\n---\n",
        "---\nbase_model:\n---\n",
        "---\nbase_model: []\n---\n",
        "---\nlicense: mit\n---\n",
        "----\nbase_model: base\n----\n",
    ],
)
def test_cards_that_name_no_parent(tmp_path: Path, text: str) -> None:
    assert read_declared(card(tmp_path, text)) == ()


def test_what_is_no_folder_with_a_card_declares_nothing(tmp_path: Path) -> None:
    assert read_declared(tmp_path) == ()
    assert read_declared(tmp_path / "gone") == ()
    (tmp_path / "file.safetensors").write_bytes(b"")
    assert read_declared(tmp_path / "file.safetensors") == ()
    (tmp_path / "m" / "README.md").mkdir(parents=True)
    assert read_declared(tmp_path / "m") == ()


@pytest.mark.parametrize(
    "text",
    [
        "---\nbase_model: [a\n---\n",
        "---\nbase_model: 3\n---\n",
        "---\nbase_model: {a: b}\n---\n",
        "---\nbase_model: [a, 3]\n---\n",
        "---\nbase_model: [[a]]\n---\n",
        "---\nbase_model: !!python/object/apply:os.system ['true']\n---\n",
        "---\n\tbase_model: a\n---\n",
        "---\nbase_model: *nowhere\n---\n",
        "---\na: 2001-99-99\n---\n",
        b"---\nbase_model: \xff\xfe\n---\n",
        "---\n" + "[" * 5000 + "\n---\n",
        "---\n? [a]\n: b\n? {c: d}\n: e\n---\n",
        "---\nbase_model: true\n---\n",
    ],
    ids=range(13),
)
def test_a_broken_card_is_one_error_that_names_it(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(FormatError) as caught:
        read_declared(card(tmp_path, text))
    words = str(caught.value)
    assert str(tmp_path / "README.md") in words
    assert "\n" not in words


def test_only_the_beginning_of_a_huge_card_is_read(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_bytes(b"---\nbase_model: base\n---\n")
    with path.open("r+b") as file:
        file.truncate(10**11)
    assert parents(tmp_path) == [("base", None)]


def test_aliases_cannot_swell(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    card(tmp_path, "---\n" + "\n".join(lines) + "\nbase_model: base\n---\n")
    assert parents(tmp_path) == [("base", None)]


@settings(max_examples=150, deadline=None)
@given(st.text("abc:-[]{}'\"#&*!|>?,%@ \n\t0129.~é", max_size=60))
def test_any_front_matter_is_read_or_refused_in_one_way(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.mktemp("card")
    card(folder, f"---\n{text}\n---\n")
    try:
        found = read_card(folder / "README.md")
    except FormatError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(declaration.parent, str) for declaration in found)
