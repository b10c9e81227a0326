"""The tree of errors and how it speaks."""

from __future__ import annotations

import re

import pytest

from lineage import errors
from lineage.errors import FormatError, LineageError, VerificationError, printable


def test_the_tree_is_the_one_that_is_drawn() -> None:
    assert errors.__doc__ is not None
    drawn = set(re.findall(r"\b\w+Error\b", errors.__doc__)) - {"ValueError", "TypeError"}
    found = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, LineageError)
    }
    assert drawn == found


@pytest.mark.parametrize("name", ["SignatureError", "ContradictionError", "ReceiptError"])
def test_a_no_is_a_verification_error(name: str) -> None:
    assert issubclass(getattr(errors, name), VerificationError)


def test_could_not_check_is_not_a_no() -> None:
    for kind in (FormatError, errors.LedgerError, errors.SchemeError, errors.SettlementError):
        assert not issubclass(kind, VerificationError)
    assert issubclass(errors.StaleHeadError, errors.LedgerError)


def test_a_format_error_says_where() -> None:
    assert str(FormatError("bad")) == "bad"
    full = FormatError("bad", file="m.safetensors", tensor="w", offset=8)
    assert str(full) == "m.safetensors: tensor 'w': bad (at byte 8)"
    assert str(FormatError("bad", file="a\nb", tensor="\x1b[2J")).isprintable()


def test_names_cannot_steer_a_terminal() -> None:
    assert printable("ok ü") == "ok ü"
    assert printable("a\x1b[2J\u202eb\n") == "a\\x1b[2J\\u202eb\\n"
    assert len(printable("x" * 500)) == 200
    assert printable("x" * 500).endswith("…")
