"""Our screen beside terminals that are not ours: a replay and what follows looks there as all of the output did."""

import random
import re
import shutil
import sys
from contextlib import ExitStack

import pyte
import pytest

from hapi.terminal.screen import Screen
from hapi.terminal.screen_modes import RESTORE
from tests.conftest import skip_or_fail
from tests.support.pty_program import PtyProgram
from tests.support.tmux import Tmux


def needs(program):
    if not shutil.which(program):
        skip_or_fail(program, f"no {program} here")


@pytest.fixture(scope="module")
def tmux(tmp_path_factory):
    needs("tmux")
    server = Tmux(tmp_path_factory.mktemp("tmux"))
    yield server
    server.close()


def drawn_again(data, cut, cols=80, rows=24):
    """The replay of what was written up to here, and the rest as it is."""
    screen = Screen(cols, rows)
    screen.feed(data[:cut])
    return screen.replay() + data[cut:]


def assert_same(tmux, data, cuts, cols=80, rows=24, *, history=False):
    expected = tmux.show(data, cols, rows, history=history)
    for cut in cuts:
        again = tmux.show(drawn_again(data, cut, cols, rows), cols, rows, history=history)
        assert again == expected, (
            f"cut at {cut} of {len(data)}: …{data[max(0, cut - 40) : cut]!r} | {data[cut : cut + 40]!r}"
        )
    return expected


@pytest.fixture
def run():
    """Start a program in a pseudo-terminal; all are ended."""
    with ExitStack() as programs:
        yield lambda *command, **options: programs.enter_context(PtyProgram(command, **options))


EVERYTHING = (
    "plain \x1b[1;31mred\x1b[m \x1b[38;2;1;2;3m24 bit\x1b[48;5;200m on\x1b[0m\r\n"
    "日本e\u0301 \x1b]2;title\x07\x1b(0lqk\x1b(B\x1b[4:3mcurly\x1b[24m\x1b[?2004h\x1b[?1002h\x1b[?1006h\x1b[?1h\x1b="
    "\x1b[2;4r\x1b[4;1Hbottom\n\x1b[3L\rup\x1b7\x1b[?25l\x1b[2;10H\x1b[K\x1b[6@ins\x1b[2P\x1b8\x1b[r"
    "\x1b[?1049h\x1b[2J\x1b[3;3H\x1b[7malternate\x1b[27m\x1b[1;70Hwrapping at the end\x1b[2;1Hx"
).encode()


def test_cut_anywhere(tmux):
    seen = assert_same(tmux, EVERYTHING, range(0, len(EVERYTHING) + 1, 9))
    assert seen.flags["alternate_on"] == "1" and seen.title == "title"
    back = EVERYTHING + b"\x1b[?1049l back"
    seen = assert_same(tmux, back, range(1, len(back) + 1, 20))
    assert any("bottom" in text for line in seen.lines for text, _ in line)


def test_cut_at_every_byte():
    whole = Screen(80, 24)
    whole.feed(EVERYTHING)
    for cut in range(len(EVERYTHING) + 1):
        again = Screen(80, 24)
        again.feed(drawn_again(EVERYTHING, cut))
        assert again.replay() == whole.replay(), EVERYTHING[:cut]


def random_output(seed, cols, rows):
    """Sequences about which terminals agree; tmux 3.3 does not tell the background of blanks, so there is none."""
    r = random.Random(seed)

    def number(high):
        return r.choice(["", str(r.randint(1, high)), str(r.randint(1, 4))])

    def column():
        return f"\x1b[{r.randint(1, cols)}G"

    def text():
        return "".join(r.choice("abcdefghij XYZ 123.-") for _ in range(r.choice([1, 3, 8, 15, cols])))

    looks = [
        "",
        "0",
        "1",
        "3",
        "4",
        "7",
        "22",
        "23",
        "24",
        "27",
        "31",
        "91",
        "39",
        "38;5;99",
        "38;2;9;1;2",
        "4:3",
        "53",
        "38:5:77",
    ]
    switches = ["?1", "?7", "?25", "?1000", "?1002", "?1003", "?1006", "?1004", "?2004", "?2026"]
    kinds = [
        (20, text),
        (8, lambda: "\r\n"),
        (3, lambda: "\r"),
        (8, lambda: f"\x1b[{number(rows + 3)};{number(cols + 3)}H"),
        (8, lambda: f"{column()}\x1b[{number(rows)}{r.choice('ABCDEFGd`')}"),
        (12, lambda: f"\x1b[{r.choice(looks)}m"),
        (8, lambda: f"\x1b[{r.choice(['', '1', '2'])}{r.choice('JKK')}"),
        (6, lambda: f"{column()}\x1b[{number(9)}{r.choice('XP')}"),
        (3, lambda: f"\x1b[{r.randint(1, cols // 2)}G\x1b[{r.randint(1, cols // 4)}@"),
        (4, lambda: f"\x1b[r\x1b[{number(rows)}d\x1b[{number(5)}{r.choice('LM')}\r"),
        (2, lambda: f"\x1b[{number(4)}{r.choice('ST')}"),
        (6, lambda: column() + r.choice(["\x1bM", "\x1bD", "\n", "\t", "\x1bH", "\x1b[g"])),
        (2, lambda: f"\x1b[{number(rows)};{number(rows)}r"),
        (3, lambda: f"\x1b[{r.choice(switches)}{r.choice('hhl')}"),
        (
            2,
            lambda: r.choice(
                ["\x1b7", "\x1b8", "\x1b=", "\x1b>", "\x1b]2;t\x07", "\x1b(0lqk\x1b(B", "\x1b)0\x0exx\x0f"]
            ),
        ),
    ]
    weights = [weight for weight, _ in kinds]
    return "".join(r.choices(kinds, weights)[0][1]() for _ in range(r.choice([10, 30, 100]))).encode()


@pytest.mark.parametrize("seed", range(5))
def test_random_output(tmux, seed):
    r = random.Random(seed)
    for number in range(8):
        cols, rows = r.choice([(10, 3), (20, 5), (40, 10), (80, 24)])
        data = random_output(seed * 100 + number, cols, rows)
        assert_same(tmux, data, (r.randint(0, len(data)), len(data)), cols, rows)


def test_history(tmux):
    lines = "".join(f"{n} \x1b[3{n % 8}mcolour\x1b[m {'long ' * (n % 30)}日本\r\n" for n in range(150)).encode()
    seen = assert_same(tmux, lines + b"prompt", (len(lines), 3000), history=True)
    assert len(seen.lines) > 200


PYTE_DOES_NOT_KNOW = re.compile(
    rb"\x1b\[[<>=!][\d;]*[a-z]|\x1b\[\d q|\x1b[*+]B|\x1b\](?:8|1\d\d|2);[^\x1b]*\x1b\\|\x1b\]1\d\d\x1b\\|\x1b\[\?1049[lh]|\x18|\x1b\\"
)


def in_pyte(data, cols, rows):
    screen = pyte.Screen(cols, rows)
    pyte.ByteStream(screen).feed(PYTE_DOES_NOT_KNOW.sub(b"", data))
    cells = [[screen.buffer[y][x] for x in range(cols)] for y in range(rows)]
    looks = [
        [(cell.data, cell.data != " " and (cell.fg, cell.bg, cell.bold, cell.reverse)) for cell in row] for row in cells
    ]
    return looks, (screen.cursor.x, screen.cursor.y)


@pytest.mark.parametrize("seed", range(10))
def test_another_emulator(seed):
    r = random.Random(seed)
    looks = ["0", "1", "7", "31", "42", "103", "39", "49", "38;5;20", "48;5;21", "48;2;1;2;3", "0;1;44"]
    for _ in range(10):
        cols, rows = r.choice([(10, 3), (20, 5), (40, 10)])
        pieces = []
        for _ in range(40):
            words = "".join(r.choice("abc def") for _ in range(r.randint(1, cols)))
            pieces += [words, f"\x1b[{r.choice(looks)}m", f"\x1b[{r.randint(1, rows)};{r.randint(1, cols)}H"]
            pieces.append(
                r.choice(
                    ["", "\r\n", f"\x1b[{r.randint(1, 3)}{r.choice('ABCDX@')}", "\x1b[K", "\x1b[1J", "\x1bM", "\x1b[2L"]
                )
            )
        data = "".join(pieces).encode()
        assert in_pyte(drawn_again(data, len(data), cols, rows), cols, rows) == in_pyte(data, cols, rows)


def cuts(data, count=5):
    r = random.Random(len(data))
    return [*(r.randint(0, len(data)) for _ in range(count)), len(data)]


def watched(tmux, program):
    """The program's output, given to tmux whole and as a replay at some moments; and tmux shows what our screen does."""
    program.end()
    data = program.written
    seen = assert_same(tmux, data, cuts(data))
    theirs = "".join(text for line in seen.lines for text, _ in line)
    assert "".join(theirs.split()) == "".join(program.screen.text(history=False).split())
    return seen


def test_vim(tmux, run, tmp_path):
    needs("vim")
    path = tmp_path / "code.py"
    path.write_text(
        "".join(f"def function_{n}(text):  # 日本語 é\n\treturn {n} + len('{'x' * n}')\n" for n in range(60))
    )
    options = "syntax on|set mouse=a number termguicolors"
    program = run("vim", "-u", "NONE", "-N", "--cmd", options, "-c", "set ft=python", str(path))
    program.until(lambda screen: "function_5" in screen.text() and screen.alternate, "the file")
    program.type(b"\x06\x06kkddOinserted \xe6\x97\xa5\xe6\x9c\xac\x1b")
    program.until(lambda screen: "inserted 日本" in screen.text(), "the new line")
    program.type(b":split\r:1\r")
    program.until(lambda screen: screen.text().count("code.py") >= 2, "two windows")
    program.type(b"5x")
    program.until(
        lambda screen: "unction_0" in screen.text() and "def function_0" not in screen.text(), "the deleted characters"
    )
    seen = watched(tmux, program)
    assert seen.flags["alternate_on"] == "1" and seen.flags["mouse_button_flag"] == "1"


def test_vim_leaves(tmux, run, tmp_path):
    needs("vim")
    program = run("sh", "-c", f"echo before; vim -u NONE -N {tmp_path}/x; echo after; exec sleep 60", cols=60, rows=15)
    program.until(lambda screen: screen.alternate and "~" in screen.text(), "vim")
    program.type(b":q!\r")
    program.until(lambda screen: "after" in screen.text(), "the end of vim")
    assert program.screen.text() == "before\nafter"
    program.end()
    assert_same(tmux, program.written, cuts(program.written), 60, 15)


def test_less(tmux, run, tmp_path):
    needs("less")
    path = tmp_path / "text"
    path.write_text("".join(f"{n} \x1b[1;3{n % 8}mcolour\x1b[0m {'word ' * (n % 40)}é日\n" for n in range(200)))
    program = run("less", "-R", str(path))
    program.until(lambda screen: "7 colour" in screen.text(), "the text")
    program.type(b"   kkkk/150\r")
    program.until(lambda screen: "150 colour" in screen.text(), "the place searched for")
    program.type(b"b")
    program.until(lambda screen: "150 colour" not in screen.text(), "the page before")
    watched(tmux, program)


def test_top(tmux, run):
    needs("top")
    program = run("top", "-d", "0.2")
    program.until(lambda screen: "PID" in screen.text() and "top -" in screen.text(), "the table")
    program.type(b"zx")
    program.until(lambda screen: b"31m" in screen.replay(), "colours")
    watched(tmux, program)


TUI = """
import sys, time
out = sys.stdout
out.write("\\x1b[?25l\\x1b[>1u\\x1b[?2004h")
for n in range(12):
    out.write("\\x1b[?2026h")
    if n: out.write("\\x1b[2K\\x1b[1A" * 4 + "\\x1b[G")
    out.write(f"\\x1b[38;2;{n * 20};100;200m⏺\\x1b[39m answer {n} 日本 \\x1b[1mbold\\x1b[22m " + "word " * 30 + "\\r\\n")
    out.write("╭" + "─" * 40 + "╮\\r\\n│ > typed" + " " * 33 + "│\\r\\n╰" + "─" * 40 + "╯\\r\\n")
    out.write("\\x1b[?2026l")
    out.flush()
out.write("\\x1b]0;done\\x07")
out.flush()
time.sleep(60)
"""


def test_an_agents_inline_screen(tmux, run):
    program = run(sys.executable, "-c", TUI)
    program.until(lambda screen: screen.title == "done", "the end")
    seen = watched(tmux, program)
    assert sum(text.count("answer") for line in seen.lines for text, _ in line) > 1


def test_a_persons_terminal_is_put_back(tmux):
    normal = tmux.show(b"text\r\n$ ")
    rude = b"\x1b[?1049h\x1b[2;5r\x1b[31m\x1b[?25l\x1b[?1003h\x1b[?1006h\x1b[?2004h\x1b[?1h\x1b=\x1b[4h\x1b[?7l\x1b(0\x1b]2;unfini"
    restored = tmux.show(b"text\r\n$ " + rude + RESTORE)
    assert restored.lines == normal.lines
    assert restored.flags == normal.flags
    inline = tmux.show(b"text\r\n$ \x1b[1;3r\x1b[2;3H\x1b[31m\x1b[?2004h\x1b[4h\x1b[" + RESTORE + b"typed")
    assert inline == tmux.show(b"text\r\n$ typed")
