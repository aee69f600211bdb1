"""Reads optimized HLO text: which arrays a program makes, what travels between devices, how much it computes."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\w+\[([\d,]*)\]")
# What moves numbers or names them; everything else computes one number for each that it returns.
_NO_WORK = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "bitcast-convert", "copy", "reshape", "iota"),
    *("broadcast", "transpose", "reverse", "slice", "concatenate", "pad", "gather", "scatter", "convert"),
    *("dynamic-slice", "dynamic-update-slice", "while", "fusion", "call", "conditional", "after-all", "partition-id"),
    *COLLECTIVES,
}


class Instruction(NamedTuple):
    name: str
    shapes: list[tuple[int, ...]]  # of what it returns
    op: str
    rest: str  # operands and attributes

    @property
    def called(self) -> list[str]:
        one = re.findall(r"(?:calls|body|to_apply)=%?([\w.\-]+)", self.rest)
        several = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
        either = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", self.rest)
        return one + either + ([name.strip(" %") for name in several[1].split(",")] if several else [])

    @property
    def trips(self) -> int:
        """How often a loop runs its body; 1 for what is no loop."""
        found = re.search(r'known_trip_count":\{"n":"(\d+)"', self.rest)
        if self.op == "while":
            assert found, f"{self.name} runs an unknown number of times"
        return int(found[1]) if found else 1


class Program:
    """The computations of an optimized module by name; ``entry`` is the first that runs."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        for line in text.splitlines():
            head, found = _HEAD.match(line), _LINE.match(line)
            if head:
                current = self.computations.setdefault(head[1], {})
                if line.startswith("ENTRY"):
                    self.entry = head[1]
            elif found:
                shapes = [tuple(int(n) for n in dims.split(",") if n) for dims in _ARRAY.findall(found[2])]
                current[found[1]] = Instruction(found[1], shapes, found[3], found[4])

    def instructions(self) -> Iterator[Instruction]:
        for computation in self.computations.values():
            yield from computation.values()

    def collectives(self) -> list[Instruction]:
        return [one for one in self.instructions() if one.op.removesuffix("-start") in COLLECTIVES]

    def loops(self) -> list[Instruction]:
        return [one for one in self.instructions() if one.op == "while"]

    def within(self, one: Instruction) -> Iterator[Instruction]:
        """The instructions that ``one`` runs: those of the computations it calls, and of what these call."""
        for name in one.called:
            for inner in self.computations[name].values():
                yield inner
                yield from self.within(inner)

    def flops(self, name: str | None = None) -> int:
        """Operations on numbers: 2 M N K a matrix product, 1 a number else; loops count as often as they run."""
        computation = self.computations[name or self.entry]
        total = 0
        for one in computation.values():
            if one.op == "dot":
                total += 2 * math.prod(one.shapes[0]) * self._contracted(computation, one)
            elif one.op in ("reduce", "reduce-window"):
                total += max(math.prod(computation[operand].shapes[0]) for operand in self._operands(computation, one))
            elif one.op not in _NO_WORK:
                total += sum(math.prod(shape) for shape in one.shapes)
            if one.op not in ("reduce", "reduce-window", "scatter", "sort", "all-reduce", "reduce-scatter"):
                total += one.trips * sum(self.flops(called) for called in one.called)
        return total

    def _operands(self, computation: dict[str, Instruction], one: Instruction) -> list[str]:
        return [name for name in re.findall(r"%([\w.\-]+)", one.rest.split("), ")[0]) if name in computation]

    def _contracted(self, computation: dict[str, Instruction], one: Instruction) -> int:
        left = computation[self._operands(computation, one)[0]].shapes[0]
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
        assert axes
        return math.prod(left[int(axis)] for axis in axes[1].split(",") if axis)
