"""The memory plan: nothing in use is written over, and the arena is as small as it can be where that is known."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.mcu.plan import Block, make_plan


def collisions(blocks: list[Block], offsets: dict[str, int]) -> list[tuple[str, str]]:
    """Pairs in use at the same step that overlap without a lead that allows it."""
    found = []
    for number, one in enumerate(blocks):
        for other in blocks[number + 1 :]:
            begin, end = offsets[one.name], offsets[one.name] + one.size
            apart = end <= offsets[other.name] or offsets[other.name] + other.size <= begin
            early, late = (one, other) if other.first >= one.first else (other, one)
            lead = late.over.get(early.name)
            led = lead is not None and offsets[early.name] - offsets[late.name] >= lead
            if one.meets(other) and not apart and not led:
                found.append((one.name, other.name))
    return found


@st.composite
def chains(draw: st.DrawFn) -> list[Block]:
    """Tensors of a network: each lives from its step to a later one, some may be written over what dies there."""
    blocks: list[Block] = []
    for number in range(draw(st.integers(1, 10))):
        over = {
            before.name: draw(st.integers(-40, 40))
            for before in blocks
            if before.last == number and draw(st.booleans())
        }
        last = number + draw(st.integers(0, 4))
        blocks.append(Block(f"t{number}", draw(st.integers(1, 100)), number, last, over))
    return blocks


@settings(max_examples=150, deadline=None)
@given(chains())
def test_nothing_in_use_is_written_over(blocks: list[Block]) -> None:
    plan = make_plan(blocks, [str(number) for number in range(20)])
    assert collisions(blocks, dict(plan.offsets)) == []
    assert all(plan.offsets[block.name] + block.size <= plan.size for block in blocks)


def test_two_tensors_in_turns_take_the_room_of_two() -> None:
    blocks = [Block(f"t{number}", 64, number, number + 1) for number in range(6)]
    assert make_plan(blocks, list("abcdef")).size == 128


def test_a_tensor_in_place_takes_none() -> None:
    blocks = [Block("a", 64, 0, 1), Block("b", 64, 1, 2, {"a": 0}), Block("c", 64, 2, 3, {"b": 0})]
    assert make_plan(blocks, list("abcd")).size == 64


def test_a_larger_output_begins_before_its_input() -> None:
    blocks = [Block("a", 64, 0, 1), Block("b", 128, 1, 2, {"a": 64})]
    plan = make_plan(blocks, list("abc"))
    assert plan.size == 128
    assert plan.offsets["a"] - plan.offsets["b"] == 64


def test_the_peak_names_the_layer() -> None:
    blocks = [Block("a", 8, 0, 1), Block("b", 800, 1, 2), Block("c", 8, 2, 3)]
    assert make_plan(blocks, ["stem", "wide", "narrow", "head"]).peak.layer in ("wide", "narrow")


def test_a_plan_of_one_block_or_none_has_nothing_to_shuffle() -> None:
    for blocks in ([], [Block("x", 8, 0, 1)]):
        assert make_plan(blocks, ["first", "second"], shuffles=9).size == 8  # an arena is never empty
