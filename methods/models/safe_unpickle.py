"""Pickles read as data: nothing that a file names is imported, called, or built.

``pickletools`` decodes the instructions; here they work on a stack of plain values.  A class or function of the file
becomes a ``Named``, what the file would call becomes a ``Made`` that remembers callee, arguments and state, an outside
reference a ``Persistent``.  Whoever reads the result looks for what he knows (see ``torch_file``) and leaves the rest.
So a checkpoint may hold configurations, optimisers or worse beside its tensors, and it makes no difference.
"""

import pickle
import pickletools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import IO, Any

ORDERED_DICT = ("collections", "OrderedDict")
_PLAIN = (str, bytes, int, float, bool, type(None))
_PUSHED = frozenset(
    [
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    ]
)


@dataclass(frozen=True)
class Named:
    """A class or function, by its name alone."""

    module: str
    name: str

    @property
    def path(self) -> tuple[str, str]:
        """Module and name."""
        return self.module, self.name


@dataclass(eq=False)
class Made:
    """What a call of ``callee`` would have made: never more than the values that it would have been given.

    ``state`` is what its ``__setstate__`` would have received (the last one), ``items`` what was to be put under keys,
    ``elements`` what was to be appended or added.
    """

    callee: Any
    arguments: Any
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Persistent:
    """A reference to something outside the pickle: in a checkpoint, to the bytes of a tensor."""

    key: Any


def read_pickle(source: bytes | IO[bytes]) -> Any:
    """The value of one pickle, from bytes or from an open file, which is left behind its end.

    Raises ``pickle.UnpicklingError`` when it is damaged, or holds what only code could make sense of.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(source):
            if opcode.name == "STOP":
                return machine.pop()
            machine.do(opcode.name, argument)
    except (ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
        raise pickle.UnpicklingError(f"damaged pickle: {error}") from error
    raise pickle.UnpicklingError("the pickle has no end")


class _Machine:
    """Stack, marks and memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        """One instruction."""
        if name in _PUSHED:
            self.push(argument)
        elif name in _INSTRUCTIONS:
            _INSTRUCTIONS[name](self, argument)
        else:
            raise pickle.UnpicklingError(f"instruction {name} is not read")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        """Everything above the last mark, in order."""
        above, self.stack = self.stack, self.below.pop()
        return above

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []


def _key(value: Any) -> Hashable:
    """A key of a dictionary.  Tuples may hold plain values only: hashing goes down into them without end."""
    plain = isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(v, _PLAIN) for v in value))
    if not plain and not isinstance(value, Named | Made):
        raise ValueError(f"a {type(value).__name__} as a key")
    return value


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return {_key(k): v for k, v in zip(values[::2], values[1::2], strict=True)}


def _call(machine: _Machine, callee: Any, arguments: Any) -> None:
    """Dictionaries that keep their order are dictionaries; all else stays uncalled."""
    if isinstance(callee, Named) and callee.path == ORDERED_DICT:
        pairs = arguments[0] if isinstance(arguments, tuple) and arguments else []
        machine.push({_key(k): v for k, v in pairs})
    else:
        machine.push(Made(callee, arguments))


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, callee = machine.pop(), machine.pop()
    _call(machine, callee, arguments)


def _new_with_names(machine: _Machine, _: Any) -> None:
    names, arguments, callee = machine.pop(), machine.pop(), machine.pop()
    machine.push(Made(callee, (arguments, names)))


def _object(machine: _Machine, _: Any) -> None:
    callee, *arguments = machine.pop_mark()
    _call(machine, callee, tuple(arguments))


def _instance(machine: _Machine, argument: str) -> None:
    _call(machine, _named(argument), tuple(machine.pop_mark()))


def _named(argument: str) -> Named:
    module, _, name = argument.partition(" ")
    return Named(module, name)


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise ValueError("a name that is no text")
    machine.push(Named(module, name))


def _build(machine: _Machine, _: Any) -> None:
    """State of an object.  Attributes of a plain dictionary are of no interest."""
    state, target = machine.pop(), machine.stack[-1]
    if isinstance(target, Made):
        target.state = state
    elif not isinstance(target, dict):
        raise ValueError(f"state for a {type(target).__name__}")


def _append(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if isinstance(target, Made):
        target.elements.extend(values)
    elif isinstance(target, list):
        target.extend(values)
    else:
        raise ValueError(f"elements for a {type(target).__name__}")


def _set_items(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, Made | dict):
        raise ValueError(f"items for a {type(target).__name__}")
    (target.items if isinstance(target, Made) else target).update(_pairs(values))


def _two(machine: _Machine) -> list[Any]:
    value, key = machine.pop(), machine.pop()
    return [key, value]


def _tuple_of(count: int) -> "Instruction":
    def instruction(machine: _Machine, _: Any) -> None:
        if len(machine.stack) < count:
            raise ValueError("too little on the stack")
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return instruction


def _remember(machine: _Machine, argument: Any) -> None:
    machine.memo[len(machine.memo) if argument is None else argument] = machine.stack[-1]


def _from_mark(make: Callable[[list[Any]], Any]) -> "Instruction":
    return lambda machine, _: machine.push(make(machine.pop_mark()))


def _constant(make: Callable[[], Any]) -> "Instruction":
    return lambda machine, _: machine.push(make())


def _drop(machine: _Machine, _: Any) -> None:
    if machine.stack:
        machine.pop()
    else:
        machine.pop_mark()


def _drop_to_mark(machine: _Machine, _: Any) -> None:
    machine.pop_mark()


def _nothing(machine: _Machine, _: Any) -> None:
    """Headers, which decide nothing here."""


Instruction = Callable[[_Machine, Any], None]
_INSTRUCTIONS: dict[str, Instruction] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "MARK": lambda machine, _: machine.mark(),
    "POP": _drop,
    "POP_MARK": _drop_to_mark,
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_TUPLE": _constant(tuple),
    "EMPTY_LIST": _constant(list),
    "EMPTY_DICT": _constant(dict),
    # members of a set need hashes, as keys do: what was to be a set is kept as what would have made it
    "EMPTY_SET": _constant(lambda: Made(Named("builtins", "set"), ())),
    "FROZENSET": _from_mark(lambda values: Made(Named("builtins", "frozenset"), tuple(values))),
    "LIST": _from_mark(list),
    "TUPLE": _from_mark(tuple),
    "DICT": _from_mark(_pairs),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": lambda machine, _: _append(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_mark()),
    "ADDITEMS": lambda machine, _: _append(machine, machine.pop_mark()),
    "SETITEM": lambda machine, _: _set_items(machine, _two(machine)),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_mark()),
    "GLOBAL": lambda machine, argument: machine.push(_named(argument)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_names,
    "OBJ": _object,
    "INST": _instance,
    "BUILD": _build,
    "PERSID": lambda machine, argument: machine.push(Persistent(argument)),
    "BINPERSID": lambda machine, _: machine.push(Persistent(machine.pop())),
    "PUT": _remember,
    "BINPUT": _remember,
    "LONG_BINPUT": _remember,
    "MEMOIZE": _remember,
    "GET": lambda machine, argument: machine.push(machine.memo[argument]),
    "BINGET": lambda machine, argument: machine.push(machine.memo[argument]),
    "LONG_BINGET": lambda machine, argument: machine.push(machine.memo[argument]),
}
