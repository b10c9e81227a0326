"""Reads an ONNX model: its initializers, and the tensors that its nodes hold.

The model is walked here and not by the onnx package because identity needs what that package does
not give: where each tensor's bytes lie, memory bounded by a piece, and a refusal where protobuf
would merge or drop.

Names are as stored: an initializer's own, a `Constant`'s output. A tensor in another attribute is
`output/attribute`, and the tensors of a graph inside a node (a branch, a loop's body) come after
`output/attribute/`, those of a local function after `domain::name/`; so two branches may use one
name. Left out are strings, plain numbers in attributes (`value_float`, `value_ints`, the thresholds
of older trees: they are part of the graph), and what is kept for training alone (`training_info`).

Source: onnx.proto of the onnx project, IR version 13 (fields of ModelProto, GraphProto, NodeProto,
AttributeProto and FunctionProto).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lineage.artifacts.onnx_scales import SCALED, Scope, Use, with_scales
from lineage.artifacts.onnx_tensors import Tensors, tensor_of
from lineage.artifacts.protobuf import VARINT, Wire
from lineage.errors import FormatError

if TYPE_CHECKING:
    from lineage.artifacts.base import Item
    from lineage.artifacts.opened import Opener, OpenFile
    from lineage.artifacts.protobuf import Field

MAX_DEPTH = 32
"""Graphs inside graphs. Protobuf itself stops at 100 messages, three to a graph."""

MAX_TENSORS = 1 << 18

_MAX_PREFIX = 1000
_MAX_LETTERS = 1 << 25
"""Of all names together: ten bytes can make a tensor whose name begins with a prefix."""

_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 4, 5
_NAME, _INT, _TENSOR, _GRAPH, _TENSORS, _GRAPHS, _SPARSE, _SPARSES = 1, 3, 5, 6, 10, 11, 22, 23
_HOLDING = frozenset({_TENSOR, _GRAPH, _TENSORS, _GRAPHS, _SPARSE, _SPARSES})
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN, _FUNCTION_OVERLOAD = 1, 7, 10, 13


def items_of(file: OpenFile, opener: Opener) -> list[Item]:
    """Return the tensors of an open ONNX model.

    Raises:
        FormatError: If the model is malformed, a tensor lies about itself, or its external data
            are not beside the model.
    """
    walk = _Walk(file, opener)
    walk.model()
    return with_scales(walk.scopes, walk.uses)


class _Walk:
    """One walk over a model, from graph to node to attribute and into the graphs in those."""

    def __init__(self, file: OpenFile, opener: Opener) -> None:
        self.wire = Wire(file)
        self.scopes: list[Scope] = []
        self.uses: list[Use] = []
        self._tensors = Tensors(file, opener)
        self._count = 0
        self._letters = 0

    def model(self) -> None:
        file, graphs = self.wire.file, 0
        for part in self.wire.fields(0, file.size):
            if part.number == _MODEL_GRAPH:
                graphs += 1
                if graphs > 1:
                    raise self.wire.fail("a second graph, which other readers merge", part.tag)
                self._graph(part, self._scope("", None, part))
            elif part.number == _MODEL_FUNCTION:
                self._function(part)
        if not graphs:
            raise FormatError("not an ONNX model: it has no graph", file=file.path)

    def _graph(self, message: Field, scope: Scope) -> None:
        for part in self.wire.inside(message):
            if part.number == _GRAPH_NODE:
                self._node(part, scope)
            elif part.number == _GRAPH_INITIALIZER:
                self._add(part, scope, None)
            elif part.number == _GRAPH_SPARSE:
                raise self._sparse(part)

    def _function(self, message: Field) -> None:
        texts = {_FUNCTION_NAME: "", _FUNCTION_DOMAIN: "", _FUNCTION_OVERLOAD: ""}
        nodes = []
        for part in self.wire.inside(message):
            if part.number in texts:
                texts[part.number] = self.wire.text(part)
            elif part.number == _FUNCTION_NODE:
                nodes.append(part)
        name, domain, overload = texts.values()
        whole = f"{domain}::{name}" + (f":{overload}" if overload else "")
        scope = self._scope(f"{whole}/", None, message)
        for node in nodes:
            self._node(node, scope)

    def _node(self, message: Field, scope: Scope) -> None:
        """Walk over a node; most hold nothing, and their names are never read."""
        inputs: list[Field] = []
        outputs: list[Field] = []
        attributes: list[Field] = []
        kind = ""
        for part in self.wire.inside(message):
            if part.number == _NODE_INPUT:
                inputs.append(part)
            elif part.number == _NODE_OUTPUT and part.end > part.start:
                outputs.append(part)
            elif part.number == _NODE_OP:
                kind = self.wire.text(part)
            elif part.number == _NODE_ATTRIBUTE:
                attributes.append(part)
        numbers: dict[str, int] = {}
        for attribute in attributes:
            name, held = self._attribute(attribute, numbers, is_scaled=kind in SCALED)
            if held:
                output = self.wire.text(outputs[0]) if outputs else kind
                is_value = kind == "Constant" and name == "value"
                self._holding(held, scope, output if is_value else f"{output}/{name}")
        if kind in SCALED:
            names = [self.wire.text(part) for part in inputs]
            self.uses.append(Use(scope, kind, tuple(names), numbers))

    def _attribute(
        self, message: Field, numbers: dict[str, int], *, is_scaled: bool
    ) -> tuple[str, list[Field]]:
        """Return an attribute's name and the tensors and graphs it holds.

        The name is only read where there are some, or where its number, put into `numbers`, says
        how a weight is scaled.
        """
        name: Field | None = None
        number: int | None = None
        held: list[Field] = []
        for part in self.wire.inside(message):
            if part.number == _NAME:
                name = part
            elif part.number == _INT and part.wire == VARINT:
                number = part.value - (1 << 64) if part.value >> 63 else part.value
            elif part.number in _HOLDING:
                if part.number in {_TENSOR, _GRAPH} and any(p.number == part.number for p in held):
                    reason = "an attribute with a second value, which other readers merge"
                    raise self.wire.fail(reason, part.tag)
                held.append(part)
        text = self.wire.text(name) if name and (held or is_scaled) else ""
        if number is not None and is_scaled:
            numbers[text] = number
        return text, held

    def _holding(self, held: list[Field], scope: Scope, name: str) -> None:
        places = {_TENSORS: 0, _GRAPHS: 0}
        for part in held:
            own = name
            if part.number in places:
                own = f"{name}/{places[part.number]}"
                places[part.number] += 1
            if part.number in {_TENSOR, _TENSORS}:
                self._add(part, scope, own)
            elif part.number in {_GRAPH, _GRAPHS}:
                self._graph(part, self._scope(f"{scope.prefix}{own}/", scope, part))
            else:
                raise self._sparse(part)

    def _add(self, message: Field, scope: Scope, name: str | None) -> None:
        """Add a tensor under `name`, or under its own."""
        tensor = tensor_of(self.wire, message)
        if tensor.is_text:
            return
        local = tensor.name if name is None else name
        if not local:
            raise self.wire.fail("an initializer without a name", message.tag)
        self._count += 1
        self._letters += len(scope.prefix) + len(local)
        if self._count > MAX_TENSORS:
            raise self.wire.fail(f"more than {MAX_TENSORS} tensors", message.tag)
        if self._letters > _MAX_LETTERS:
            raise self.wire.fail(f"names of more than {_MAX_LETTERS} letters", message.tag)
        item = self._tensors.item(scope.prefix + local, tensor)
        if local in scope.items:
            raise FormatError("stored twice", file=item.file, tensor=item.name)
        scope.items[local] = item

    def _scope(self, prefix: str, parent: Scope | None, message: Field) -> Scope:
        depth = parent.depth + 1 if parent else 0
        if depth > MAX_DEPTH:
            raise self.wire.fail(f"graphs nested more than {MAX_DEPTH} deep", message.tag)
        if len(prefix) > _MAX_PREFIX:
            reason = f"graphs whose names together take more than {_MAX_PREFIX} characters"
            raise self.wire.fail(reason, message.tag)
        self.scopes.append(Scope(prefix, parent, depth))
        return self.scopes[-1]

    def _sparse(self, message: Field) -> FormatError:
        return self.wire.fail("a sparse tensor; only dense ones are read", message.tag)
