"""Long texts in pieces: nothing lost, nothing too long, and code stays code."""

from hypothesis import given
from hypothesis import strategies as st

from hapi.workers.supervisor.pieces import pieces


def units(text):
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


@given(st.text(st.sampled_from("a😀\n "), max_size=400), st.integers(80, 120))
def test_nothing_is_lost_and_nothing_too_long(text, limit):
    found = pieces(text, limit)
    assert "".join(found) == text
    assert all(units(piece) <= limit for piece in found)


@given(st.text(st.sampled_from("a\n`~ "), max_size=400))
def test_it_ends_whatever_the_fences(text):
    found = pieces(text, 100)
    assert sum(map(len, found)) >= len(text)
    assert all(units(piece) <= 200 for piece in found)


def test_it_is_cut_between_lines():
    assert pieces("aaaa\nbbbb\ncccc", 12) == ["aaaa\nbbbb\n", "cccc"]


def test_a_block_of_code_is_closed_and_opened_again():
    code = "before\n```py\n" + "x = 1\n" * 30 + "```\nafter\n"
    found = pieces(code, 100)
    assert len(found) > 2
    for piece in found[:-1]:
        assert piece.count("```") == 2 and piece.rstrip().endswith("```")
    assert all(piece.startswith("```py\n") for piece in found[1:])
    assert "".join(found).count("x = 1\n") == 30


def test_a_closed_block_is_left_alone():
    text = "```\ncode\n```\n" + "words\n" * 40
    assert "".join(pieces(text, 100)) == text
