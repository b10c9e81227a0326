"""Who gets what: one small family after another, and the page that says how."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from importlib import resources

import pytest
from strategies import (
    KEY,
    NONCE,
    OTHER_KEY,
    POLICY,
    claim_of,
    measured,
    parent_of,
    root_of,
    verified,
)

from lineage import canonical
from lineage.claims import (
    Claim,
    Dataset,
    Finding,
    Level,
    Measurement,
    ModelRef,
    Parent,
    Policy,
    Split,
    VerifiedClaim,
    claim_id,
    sign,
    statement,
    verify,
)
from lineage.digest import blake3_digest
from lineage.errors import FormatError, SettlementError
from lineage.ledgers import Receipt
from lineage.relation import ADDS_NOTHING, Relation
from lineage.settlement import Link, Settlement, Terms, settle

TENTH = Fraction(1, 10)
TERMS = Terms()


def divide(
    claims: list[Claim], earner: int, amount: int = 1000, terms: Terms = TERMS
) -> dict[str, int]:
    """What each payee gets when everything is measured as declared."""
    done = settle([verified(claim) for claim in claims], root_of(earner), amount, "cent", terms)
    paid = {payout.payee: payout.amount for payout in done.payouts}
    assert sum(paid.values()) + done.unclaimed == amount
    return paid | ({"(held)": done.unclaimed} if done.holder else {})


def test_a_model_alone_keeps_everything() -> None:
    assert divide([claim_of(1)], 1) == {"payee-1": 1000}


def test_each_ancestor_takes_its_own_rate() -> None:
    family = [
        claim_of(1, rate=TENTH),
        claim_of(2, (parent_of(1),), rate=Fraction(1, 5)),
        claim_of(3, (parent_of(2),), rate=Fraction(1)),
    ]
    assert divide(family, 3) == {"payee-1": 100, "payee-2": 200, "payee-3": 700}
    assert divide(family, 2) == {"payee-1": 100, "payee-2": 900}


def test_a_diamond_pays_its_top_once() -> None:
    family = [
        claim_of(1, rate=TENTH),
        claim_of(2, (parent_of(1),), rate=TENTH),
        claim_of(3, (parent_of(1),), rate=TENTH),
        claim_of(4, (parent_of(2), parent_of(3), parent_of(1))),
    ]
    assert divide(family, 4) == {"payee-1": 100, "payee-2": 100, "payee-3": 100, "payee-4": 700}


def test_rates_are_scaled_down_to_the_ceiling() -> None:
    family = [
        claim_of(1, rate=Fraction(1)),
        claim_of(2, rate=Fraction(1, 2)),
        claim_of(3, (parent_of(1), parent_of(2))),
    ]
    assert divide(family, 3, 900) == {"payee-1": 300, "payee-2": 150, "payee-3": 450}
    assert divide(family, 3, 900, Terms(Fraction(1))) == {"payee-1": 600, "payee-2": 300}
    assert divide(family, 3, 900, Terms(Fraction(0))) == {"payee-3": 900}


@pytest.mark.parametrize("relation", sorted(ADDS_NOTHING))
def test_a_copy_is_its_original(relation: Relation) -> None:
    family = [
        claim_of(1, rate=TENTH),
        claim_of(2, (parent_of(1),), rate=TENTH),
        claim_of(3, (parent_of(2, relation),), rate=Fraction(1, 2)),
        claim_of(4, (parent_of(3, relation),), rate=Fraction(1, 2)),
        claim_of(5, (parent_of(4),)),
    ]
    assert divide(family, 4) == {"payee-1": 100, "payee-2": 900}
    assert divide(family, 5) == {"payee-1": 100, "payee-2": 100, "payee-5": 800}


def test_the_measured_relation_decides_what_a_copy_is() -> None:
    base = verified(claim_of(1, rate=TENTH))
    envelope = sign(claim_of(2, (parent_of(1, Relation.QUANTIZED),)), KEY)
    tuned = Measurement(root_of(2), root_of(1), True, Relation.FINETUNE, None, "parent->child")
    child = verify(envelope, POLICY, measurements=[tuned])
    done = settle([base, child], root_of(2), 1000, "cent")
    assert [(payout.payee, payout.amount) for payout in done.payouts] == [
        ("payee-1", 100),
        ("payee-2", 900),
    ]


def test_a_copy_has_no_other_parents() -> None:
    family = [
        claim_of(1, rate=TENTH),
        claim_of(2, rate=Fraction(1, 2)),
        claim_of(3, (parent_of(1, Relation.IDENTICAL), parent_of(2))),
    ]
    assert divide(family, 3) == {"payee-1": 1000}
    done = settle([verified(claim) for claim in family], root_of(3), 1000, "cent")
    assert verified(family[1]).claim_id not in done.claims


def test_a_copy_of_two_models_is_refused() -> None:
    family = [
        claim_of(1),
        claim_of(2),
        claim_of(3, (parent_of(1, Relation.NOISED), parent_of(2, Relation.NOISED))),
    ]
    with pytest.raises(SettlementError, match="copy of two different models"):
        divide(family, 3)
    same = [claim_of(1), claim_of(2, (parent_of(1, Relation.NOISED),)), family[2]]
    assert divide(same, 3) == {"payee-1": 1000}


def test_what_an_unclaimed_original_would_keep_is_held() -> None:
    copy = [claim_of(2, (parent_of(1, Relation.IDENTICAL),))]
    assert divide(copy, 2) == {"(held)": 1000}
    done = settle([verified(copy[0])], root_of(2), 1000, "cent")
    assert done.holder == root_of(1)
    assert done.payouts == ()


def test_a_parent_known_only_by_digest_set_no_rate() -> None:
    assert divide([claim_of(2, (parent_of(1),))], 2) == {"payee-2": 1000}


def test_a_model_put_between_dilutes_the_base_as_the_page_says() -> None:
    """A known limit: what an earner asks for itself counts under the ceiling as well."""
    between = claim_of(2, (parent_of(1),), rate=Fraction(1))
    family = [claim_of(1, rate=TENTH), between, claim_of(3, (parent_of(2),))]
    assert divide(family, 3, 2200)["payee-1"] == 2200 // 22
    assert divide([family[0], claim_of(3, (parent_of(1),))], 3, 2200)["payee-1"] == 220


def test_splits_divide_what_a_model_takes() -> None:
    splits = (
        Split("ann", "trainer", Fraction(1, 3)),
        Split("bob", "data", Fraction(1, 3)),
        Split("ann", "evaluation", Fraction(1, 3)),
    )
    base = claim_of(1, rate=Fraction(1, 2), splits=splits)
    done = settle(
        [verified(base), verified(claim_of(2, (parent_of(1),), splits=splits))],
        root_of(2),
        100,
        "cent",
    )
    assert [(payout.payee, payout.amount) for payout in done.payouts] == [("ann", 67), ("bob", 33)]
    assert [(r.name, r.role, r.part) for r in done.payouts[0].reasons] == [
        ("model-1", "evaluation", Fraction(1, 6)),
        ("model-1", "trainer", Fraction(1, 6)),
        ("model-2", "evaluation", Fraction(1, 6)),
        ("model-2", "trainer", Fraction(1, 6)),
    ]


def test_ties_go_to_the_lower_payee() -> None:
    splits = tuple(Split(name, "trainer", Fraction(1, 3)) for name in ("cem", "ann", "bob"))
    assert divide([claim_of(1, splits=splits)], 1, 2) == {"ann": 1, "bob": 1, "cem": 0}


def test_only_measured_edges_pay_unless_told_otherwise() -> None:
    family = [
        verified(claim_of(1, rate=TENTH)),
        verified(claim_of(2, (parent_of(1),)), confirm=False),
    ]
    link = Link(root_of(2), root_of(1), Relation.FINETUNE)
    done = settle(family, root_of(2), 1000, "cent")
    assert [(payout.payee, payout.amount) for payout in done.payouts] == [("payee-2", 1000)]
    assert done.asserted == (link,)
    done = settle(family, root_of(2), 1000, "cent", Terms(accept_asserted=True))
    assert [payout.amount for payout in done.payouts] == [100, 900]
    assert done.asserted == (link,)


def test_cycles_are_refused() -> None:
    ring = [
        claim_of(1, (parent_of(3),)),
        claim_of(2, (parent_of(1),)),
        claim_of(3, (parent_of(2),)),
    ]
    with pytest.raises(SettlementError, match="ancestor of itself"):
        divide(ring, 3)
    copies = [
        claim_of(1, (parent_of(2, Relation.IDENTICAL),)),
        claim_of(2, (parent_of(1, Relation.IDENTICAL),)),
    ]
    with pytest.raises(SettlementError, match="ancestor of itself"):
        divide(copies, 1)


def test_claims_that_disagree_are_refused() -> None:
    child = claim_of(2, (parent_of(1),))
    for other in (
        claim_of(1, rate=TENTH),
        claim_of(1, splits=(Split("thief", "trainer", Fraction(1)),)),
        claim_of(1, (parent_of(7),)),
    ):
        with pytest.raises(SettlementError, match="disagree"):
            divide([claim_of(1), other, child], 2)
    # A quarrel about a stranger is not the earner's.
    assert divide([claim_of(8), claim_of(8, rate=TENTH), child], 2) == {"payee-2": 1000}


def test_two_signers_may_agree() -> None:
    policy = Policy((KEY.public, OTHER_KEY.public))
    claims = [
        verify(sign(claim_of(1, nonce=nonce * 32), key), policy)
        for nonce, key in (("0", KEY), ("1", OTHER_KEY))
    ]
    done = settle(claims, root_of(1), 1000, "cent")
    assert len(done.claims) == 1
    assert done == settle(claims[::-1], root_of(1), 1000, "cent")


def test_a_measured_claim_is_used_before_an_asserted_one() -> None:
    base, child = verified(claim_of(1, rate=TENTH)), claim_of(2, (parent_of(1),))
    for order in ((True, False), (False, True)):
        claims = [base, *(verified(child, confirm=confirm) for confirm in order)]
        assert not settle(claims, root_of(2), 1000, "cent").asserted


def test_one_claim_measured_twice_is_settled_alike_in_any_order() -> None:
    """Somebody measured one parent of it, somebody else the other: equally well, not the same."""
    envelope = sign(claim_of(3, (parent_of(1), parent_of(2))), KEY)
    tops = [verified(claim_of(number, rate=TENTH)) for number in (1, 2)]
    halves = [verify(envelope, POLICY, measurements=[measured(3, number)]) for number in (1, 2)]
    one, other = (
        settle([*tops, *order], root_of(3), 1000, "cent") for order in (halves, halves[::-1])
    )
    assert one.to_bytes() == other.to_bytes()


def test_sums_that_are_longer_than_python_prints_are_settled() -> None:
    """300 generations, each with a rate of its own denominator, and an amount as long."""
    tower = [claim_of(1)]
    for number in range(2, 302):
        rate = Fraction(1, 2**63 - 2 * number - 1)
        tower.append(claim_of(number, (parent_of(number - 1),), rate=rate))
    found = [verified(claim) for claim in tower]
    done = settle(found, root_of(301), 10**5000, "cent", Terms(Fraction(1)))
    document = canonical.loads(done.to_bytes())
    assert document["amount"] == "1" + 5000 * "0"
    assert len(done.sha256) == 64
    longest = max(
        (reason["part"] for payout in document["payouts"] for reason in payout["reasons"]), key=len
    )
    assert len(longest.split("/")[1]) > 4300


def test_unknown_earners_and_negative_amounts_are_refused() -> None:
    alone = [verified(claim_of(1))]
    with pytest.raises(SettlementError, match="no verified claim"):
        settle(alone, root_of(2), 1, "cent")
    with pytest.raises(SettlementError, match="negative"):
        settle(alone, root_of(1), -1, "cent")
    with pytest.raises(FormatError, match="unit"):
        settle(alone, root_of(1), 1, "\x1b[2J")
    for amount in (1.0, True, "1"):
        with pytest.raises(TypeError):
            settle(alone, root_of(1), amount, "cent")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="verify"):
        settle([claim_of(1)], root_of(1), 1, "cent")  # type: ignore[list-item]
    for ceiling in (0.5, Fraction(2)):
        with pytest.raises(ValueError, match="ceiling"):
            Terms(ceiling)  # type: ignore[arg-type]


def test_a_deep_tower_needs_no_recursion() -> None:
    tower = [claim_of(1, rate=TENTH)]
    tower += [claim_of(n, (parent_of(n - 1, Relation.IDENTICAL),)) for n in range(2, 1500)]
    assert divide([*tower, claim_of(1500, (parent_of(1499),))], 1500) == {
        "payee-1": 100,
        "payee-1500": 900,
    }


def example() -> tuple[list[VerifiedClaim], Settlement]:
    """The claims on the pages of the specification."""

    def digest(text: str) -> str:
        return blake3_digest(text.encode()).hex()

    base = Claim(
        ModelRef("base", digest("base")),
        (),
        (Split("alice", "trainer", Fraction(1)),),
        Fraction(1, 8),
        "2026-01-30T08:00:00Z",
        "ffeeddccbbaa99887766554433221100",
    )
    child = Claim(
        ModelRef("child", digest("child"), digest("child manifest")),
        (Parent(ModelRef("base", digest("base")), Relation.FINETUNE, "full"),),
        (
            Split("bob", "trainer", Fraction(2, 3)),
            Split("carol", "dataset curator", Fraction(1, 3)),
        ),
        Fraction(1, 20),
        "2026-01-31T09:30:00Z",
        NONCE,
        (
            Finding(
                digest("base"),
                Level.INFERRED,
                "pair-v1/seed=7/dim=256",
                Relation.FINETUNE,
                "-41.7",
            ),
        ),
        (Dataset("letters", digest("letters")),),
    )
    claims = [verified(base), verified(child)]
    return claims, settle(claims, child.subject.root, 1000, "EUR-cent")


def test_the_pages_show_what_the_code_makes() -> None:
    spec = resources.files("lineage") / "spec"
    claims, done = example()
    page = (spec / "settlement-v1.md").read_text(encoding="utf-8")
    shown = json.loads(page.split("```json\n")[1].split("```")[0])
    assert canonical.dumps(shown) == done.to_bytes()
    assert done.sha256 in page
    child = sign(claims[1].claim, KEY)
    page = (spec / "claim-v1.md").read_text(encoding="utf-8")
    shown = json.loads(page.split("```json\n")[1].split("```")[0])
    assert canonical.dumps(shown) == statement.to_bytes(claims[1].claim)
    assert claim_id(child) in page
    page = (spec / "ledger-v1.md").read_text(encoding="utf-8")
    receipt = Receipt.from_bytes(page.split("```\n")[1].encode())
    assert receipt.verify(child.to_bytes(), KEY.public, "example.com/log").size == 2


def test_settlements_are_frozen() -> None:
    _, done = example()
    with pytest.raises(dataclasses.FrozenInstanceError):
        done.amount = 1  # type: ignore[misc]
