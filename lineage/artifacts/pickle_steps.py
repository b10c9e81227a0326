"""What the pickle machine does at each opcode.

Source: CPython's Lib/pickletools.py.
"""

from __future__ import annotations

import pickle as op
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineage.artifacts.pickled import Machine

MAX_LINE = 4096
"""Longer than the name of any class."""

STOP = op.STOP


def _constant(value: Any) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(value)


def _number(layout: str) -> Callable[[Machine], None]:
    form = struct.Struct(layout)
    return lambda m: m.stack.append(form.unpack(m.stream.take(form.size))[0])


def _long(width: int) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(
        int.from_bytes(m.stream.take(m.number(width)), "little", signed=True)
    )


def _text(width: int) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(m.stream.take(m.number(width)).decode())


def _bytes(width: int) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(m.stream.take(m.number(width)))


def _text2(width: int) -> Callable[[Machine], None]:
    """Text of Python 2, which did not say in which encoding."""

    def do(m: Machine) -> None:
        data = m.stream.take(m.number(width))
        m.stack.append(data.decode() if data.isascii() else data.decode("latin-1"))

    return do


def _tuple(size: int) -> Callable[[Machine], None]:
    def do(m: Machine) -> None:
        if len(m.stack) < size:
            raise IndexError
        parts = tuple(m.stack[-size:])
        del m.stack[-size:]
        m.push(parts)

    return do


def _mark(m: Machine) -> None:
    m.pay()
    m.below.append(m.stack)
    m.stack = []


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.marked()


def _pop_mark(m: Machine) -> None:
    m.marked()


def _frame(m: Machine) -> None:
    m.stream.take(8)  # how much follows: a hint for readers of pipes


def _put(width: int) -> Callable[[Machine], None]:
    return lambda m: m.keep(m.number(width))


def _get(width: int) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(m.kept[m.number(width)])


def _marked_into(kind: Callable[[list[Any]], Any]) -> Callable[[Machine], None]:
    def do(m: Machine) -> None:
        found = m.marked()
        m.push(kind(found))

    return do


def _dict(m: Machine) -> None:
    found, filled = m.marked(), dict[Any, Any]()
    m.fill(filled, found)
    m.push(filled)


def _append(m: Machine) -> None:
    value = m.stack.pop()
    m.top(list).append(value)


def _appends(m: Machine) -> None:
    found = m.marked()
    m.top(list).extend(found)


def _setitem(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.fill(m.top(dict), [key, value])


def _setitems(m: Machine) -> None:
    found = m.marked()
    m.fill(m.top(dict), found)


def _global(m: Machine) -> None:
    module = m.stream.line()
    m.push(m.find(f"{module}.{m.stream.line()}"))


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise m.stream.damaged("a class is named by what is no text")
    if len(name) + len(module) > MAX_LINE:
        raise m.stream.damaged("a name without end")
    m.push(m.find(f"{module}.{name}"))


def _call(m: Machine) -> None:
    arguments, by = m.stack.pop(), m.stack.pop()
    m.push(m.call(by, arguments))


def _call_named(m: Machine) -> None:
    _, arguments, by = m.stack.pop(), m.stack.pop(), m.stack.pop()
    m.push(m.call(by, arguments))


def _persistent(m: Machine) -> None:
    if m.persistent is None:
        raise m.stream.damaged("it refers to values outside itself")
    m.push(m.persistent(m.stack.pop()))


def _protocol(m: Machine) -> None:
    if m.number(1) > 5:
        raise m.stream.damaged("its protocol is newer than 5")


STEPS: dict[bytes, Callable[[Machine], None]] = {
    op.PROTO: _protocol, op.FRAME: _frame,
    op.MARK: _mark, op.POP: _pop, op.POP_MARK: _pop_mark,
    op.DUP: lambda m: m.stack.append(m.stack[-1]),
    op.NONE: _constant(None), op.NEWTRUE: _constant(True), op.NEWFALSE: _constant(False),
    op.BININT: _number("<i"), op.BININT1: _number("<B"), op.BININT2: _number("<H"),
    op.BINFLOAT: _number(">d"), op.LONG1: _long(1), op.LONG4: _long(4),
    op.SHORT_BINUNICODE: _text(1), op.BINUNICODE: _text(4), op.BINUNICODE8: _text(8),
    op.SHORT_BINSTRING: _text2(1), op.BINSTRING: _text2(4),
    op.SHORT_BINBYTES: _bytes(1), op.BINBYTES: _bytes(4), op.BINBYTES8: _bytes(8),
    op.BYTEARRAY8: _bytes(8),
    op.EMPTY_TUPLE: _constant(()), op.TUPLE1: _tuple(1), op.TUPLE2: _tuple(2),
    op.TUPLE3: _tuple(3), op.TUPLE: _marked_into(tuple), op.FROZENSET: _marked_into(tuple),
    op.EMPTY_LIST: lambda m: m.push([]), op.EMPTY_SET: lambda m: m.push([]),
    op.LIST: _marked_into(list), op.APPEND: _append, op.APPENDS: _appends, op.ADDITEMS: _appends,
    op.EMPTY_DICT: lambda m: m.push({}), op.DICT: _dict,
    op.SETITEM: _setitem, op.SETITEMS: _setitems,
    op.BINPUT: _put(1), op.LONG_BINPUT: _put(4), op.MEMOIZE: lambda m: m.keep(len(m.kept)),
    op.BINGET: _get(1), op.LONG_BINGET: _get(4),
    op.GLOBAL: _global, op.STACK_GLOBAL: _stack_global,
    op.REDUCE: _call, op.NEWOBJ: _call, op.NEWOBJ_EX: _call_named,
    op.BUILD: lambda m: m.build(m.stack.pop()),
    op.BINPERSID: _persistent,
}  # fmt: skip
