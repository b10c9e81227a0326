"""Reads a pickle as data: a small machine that builds plain values and never calls anything.

Python's own unpickler calls what a file names, sets attributes on what it finds and sizes its memo
by numbers read in the file. Here a class or function is a name, a call to it is a `Made` that
nobody carries out, and every byte read pays for what it makes, so that a file can only be refused.

Source: the opcodes as CPython's Lib/pickletools.py describes them; those of protocols 2 to 5 that
a pickler writes by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lineage.artifacts.pickle_steps import MAX_LINE, STEPS, STOP
from lineage.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lineage.artifacts.opened import OpenFile

MAX_PICKLE_BYTES = 100_000_000
"""As much as a safetensors header may take."""

_FREE_VALUES = 1_000_000
"""So many values any pickle may make; beyond, one for every third byte. A byte can ask for a dict
of sixty-four, and picklers do not write such files."""

_MAX_KEY = 2**60
_CHUNK = 1 << 20
_MAPPINGS = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter")


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function."""

    name: str


@dataclass(slots=True, eq=False)
class Made:
    """What a call would have made, had anyone called.

    Attributes:
        by: The class or function called, as `module.name`.
        arguments: What it was to be given.
        state: What was to be set on the result.
    """

    by: str
    arguments: tuple[Any, ...]
    state: Any = None


class Odd:
    """Stands for a mapping's key that is no text and no small number."""


class Stream:
    """Bytes read forward, from memory or from a file as they are needed."""

    def __init__(self, file: OpenFile, start: int = 0, data: bytes | None = None) -> None:
        self.file = file
        self.first = start
        self.data = b"" if data is None else data
        self.size = min(file.size - start, MAX_PICKLE_BYTES) if data is None else len(data)
        self.at = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes; a stream that ends sooner is an error."""
        end = self.at + size
        if end > len(self.data):
            self._fill(end)
        found = self.data[self.at : end]
        self.at = end
        return found

    def line(self) -> str:
        """Return the text up to the next end of line."""
        end = self.data.find(b"\n", self.at, self.at + MAX_LINE)
        if end < 0:
            self._fill(min(self.at + MAX_LINE, self.size))
            end = self.data.find(b"\n", self.at, self.at + MAX_LINE)
        if end < 0:
            raise self.damaged("a name without end")
        found = self.take(end - self.at).decode()
        self.at += 1
        return found

    def damaged(self, reason: str) -> FormatError:
        """Return the error that says the pickle cannot be read here."""
        return FormatError(f"its pickle is damaged: {reason}", file=self.file.path, offset=self.at)

    def _fill(self, end: int) -> None:
        """Have at least the first `end` bytes in memory."""
        if end > self.size:
            raise self.damaged("it ends too soon")
        if end > len(self.data):
            more = min(max(end, 2 * len(self.data), _CHUNK), self.size) - len(self.data)
            self.data += self.file.read(self.first + len(self.data), more)


def load(
    stream: Stream,
    *,
    find: Callable[[str], Any],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle.

    Args:
        stream: Where it lies; left after its last byte.
        find: Given `module.name` of a class or function, returns a value that stands for it (a
            `Global`, so that calls to it are kept) or raises `FormatError`.
        persistent: Given a persistent id, returns a value that stands for it.

    Returns:
        None, booleans, numbers, text, bytes, lists (sets too), tuples, dicts (ordered ones too),
        `Made`, and what the two functions gave. Values may hold themselves and share parts.

    Raises:
        FormatError: If it is damaged, or uses more than weight files do.
    """
    machine = Machine(stream, find, persistent)
    try:
        return machine.run()
    except IndexError as error:
        raise stream.damaged("it takes a value that is not there") from error
    except KeyError as error:
        raise stream.damaged("it recalls what it never kept") from error
    except UnicodeDecodeError as error:
        raise stream.damaged("it has text that is not UTF-8") from error


class Machine:
    """A stack, the stacks below the marks, and what was kept by number."""

    def __init__(
        self, stream: Stream, find: Callable[[str], Any], persistent: Callable[[Any], Any] | None
    ) -> None:
        self.stream = stream
        self.find = find
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.kept: dict[int, Any] = {}
        self.made = 0

    def run(self) -> Any:
        """Do one opcode after the other until the last."""
        stream = self.stream
        while True:
            code = stream.take(1)
            if code == STOP:
                break
            do = STEPS.get(code)
            if do is None:
                raise stream.damaged(f"it has opcode {code!r}, which weight files do not use")
            do(self)
        if self.below:
            raise stream.damaged("a mark is left over")
        return self.stack.pop()

    def push(self, value: Any) -> None:
        """Put a new value on the stack, against the budget."""
        self.pay()
        self.stack.append(value)

    def pay(self, count: int = 1) -> None:
        """Count so many values more."""
        self.made += count
        if self.made > _FREE_VALUES and self.made > _FREE_VALUES + self.stream.at // 3:
            raise self.stream.damaged("it makes more values than its bytes can mean")

    def keep(self, number: int) -> None:
        """Keep the top of the stack by a number."""
        self.pay()
        self.kept[number] = self.stack[-1]

    def marked(self) -> list[Any]:
        """Return what lies above the last mark, and forget the mark."""
        found = self.stack
        self.stack = self.below.pop()
        return found

    def top(self, kind: type) -> Any:
        """Return the top of the stack, which must be of this kind."""
        if not isinstance(self.stack[-1], kind):
            raise self.stream.damaged(f"it fills what is no {kind.__name__}")
        return self.stack[-1]

    def number(self, size: int) -> int:
        """Read an unsigned number."""
        return int.from_bytes(self.stream.take(size), "little")

    def call(self, by: Any, arguments: Any) -> Any:
        """Return what stands for the result of a call."""
        if not isinstance(by, Global) or not isinstance(arguments, tuple):
            raise self.stream.damaged("it calls what is no function")
        if by.name not in _MAPPINGS:
            return Made(by.name, arguments)
        filled: dict[Any, Any] = {}
        for pairs in arguments:
            if isinstance(pairs, dict | list):
                self.pay(len(pairs))  # a byte can ask for them again
            if isinstance(pairs, dict):
                filled.update(pairs)
            elif isinstance(pairs, list) and all(
                isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
            ):
                self.fill(filled, [part for pair in pairs for part in pair])
        return filled

    def build(self, state: Any) -> None:
        """Keep the state of what was made; what a dict has beside its entries is let go."""
        if isinstance(self.stack[-1], Made):
            self.stack[-1].state = state
        else:
            self.top(dict)

    def fill(self, target: dict[Any, Any], pairs: list[Any]) -> None:
        """Put keys and values, in turns, into a dict."""
        if len(pairs) % 2:
            raise self.stream.damaged("a key has no value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            self.pay()
            target[_key(key)] = value


def _key(key: Any) -> Any:
    """Return a key that is cheap to hash whatever the file says."""
    plain = isinstance(key, str | bytes) or (isinstance(key, int) and abs(key) < _MAX_KEY)
    return key if plain or key is None else Odd()
