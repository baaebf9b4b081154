"""The demo agent with a bad conscience: it is silent at the second message, answers the third twice, and at the fourth
answers one that nobody sent. What counts messages must notice.
"""

import re
import sys

from hapi.agents import demo

_honest = demo._Turn._step


def lie(turn, part):
    """What the demo agent would do, but for the three lies."""
    if turn.number == 2:
        return
    if turn.number == 3:
        _honest(turn, part)
    _honest(turn, re.sub(r"-\d+$", "-777", part) if turn.number == 4 else part)


demo._Turn._step = lie

if __name__ == "__main__":
    sys.exit(demo.main())
