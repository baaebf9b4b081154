"""What the demo agent needs of `json`, `threading`, `queue` and `signal`, without what these import (`re`, `enum`,
`functools`, `collections`): two thirds of its time to start, and of its memory. The interpreter's own halves of them
do the work; where it has none, the modules themselves.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C half of `signal`
import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:  # the typing module would be a tenth of the start-up time
    from collections.abc import Callable
    from queue import SimpleQueue
    from typing import Any
else:
    try:
        from _queue import SimpleQueue
    except ImportError:  # an interpreter without the C half
        from queue import SimpleQueue

__all__ = ["Flag", "Lock", "SimpleQueue", "dumps", "interruptible", "loads", "start_thread"]

Lock = _thread.allocate_lock
_BLANKS = " \t\n\r"
_FOREVER_S = 1e6  # longer than the platform's longest is refused


class Flag:
    """`threading.Event`, in short: set once, by whichever thread; any number may wait for it."""

    def __init__(self) -> None:
        self._held = Lock()
        self._held.acquire()
        self._setting = Lock()
        self._set = False

    def set(self) -> None:
        with self._setting:
            if not self._set:
                self._set = True
                self._held.release()

    def wait(self, seconds: float = _FOREVER_S) -> bool:
        """Whether it is set, at once or within that time."""
        if not self._set and seconds > 0 and self._held.acquire(timeout=seconds):
            self._held.release()  # for the next one
        return self._set


def start_thread(work: Callable[..., None], *arguments: object, stack_bytes: int) -> None:
    """Run `work` in a thread that ends with the process."""
    _thread.stack_size(stack_bytes)
    _thread.start_new_thread(work, arguments)


def interruptible() -> None:
    """SIGINT ends the process, without a traceback."""
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


class _Reading:
    """What `json` reads by default, for the scanner."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float, parse_int = float, int

    @staticmethod
    def parse_constant(name: str) -> float:
        return float(name.replace("Infinity", "inf"))


def _codec() -> tuple[Callable[[str], Any], Callable[[Any], str]]:
    reading: Any = _Reading
    try:
        from _json import encode_basestring_ascii, make_encoder, make_scanner

        scan = make_scanner(reading)
        make_encoder({}, _unknown, encode_basestring_ascii, None, ":", ",", False, False, True)
    except (ImportError, AttributeError, TypeError):  # there is none, or it is another interpreter's, made otherwise
        import json

        return json.loads, lambda value: json.dumps(value, separators=(",", ":"))

    def load(text: str) -> Any:
        try:
            value, end = scan(text, len(text) - len(text.lstrip(_BLANKS)))
        except (StopIteration, ValueError, SystemError):  # without `json.decoder` it has no words for what is wrong
            end = -1
        if end < 0 or text[end:].strip(_BLANKS):
            import json

            return json.loads(text)  # says what
        return value

    def dump(value: Any) -> str:
        encode = make_encoder({}, _unknown, encode_basestring_ascii, None, ":", ",", False, False, True)
        return "".join(encode(value, 0))

    return load, dump


def _unknown(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} is not JSON")


_load, _dump = _codec()


def loads(data: str | bytes) -> Any:
    """The value that JSON text says. Raises ValueError."""
    return _load(data.decode() if isinstance(data, bytes) else data)


def dumps(value: Any) -> str:
    """JSON text without blanks, in ASCII. Raises TypeError, ValueError for what cannot be said."""
    return _dump(value)
