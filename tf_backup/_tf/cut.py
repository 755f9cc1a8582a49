"""The door to private TensorFlow: a graph across servers, cut into as few functions as can be.

TensorFlow runs a graph that is spread over servers operation by operation, and whatever one server
has of another crosses the network by itself. An optimizer's update of a hundred variables is a
thousand operations, and crosses as often as these happen to need each other. Here all that a server
can do in one go becomes one function: with SGD or Adam there is one per server, and what crosses
is the learning rate.

Each entry says what it relies on, so that a TensorFlow release that moves it breaks one line
here and no other file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_backup._tf import graphs, runtime
from tf_backup._tf.simplified import in_order, simplified

Tensor = Any
Operation = Any

_LOCAL = {"MapStage", "MapUnstage", "MapClear"}  # What these change, nothing elsewhere looks at.
ANYWHERE = -1  # Constants, and what is made of them alone: each function has its own.


class Part(NamedTuple):
    """What one server does in one go."""

    server: int
    operations: list[Operation]


class Cut:
    """A traced function, as functions that each run on one server.

    Args:
      function: a concrete function of tensors, whose operations have devices.

    Raises:
      ValueError: if an operation needs several servers at once, as a branch over variables on
        more than one does.
    """

    def __init__(self, function: Any) -> None:
        traced = function.graph
        captures = list(traced.captures)
        self._captured = {inside.name: outside for outside, inside in captures}
        self._definition, renamed = simplified(traced, [each.name for each in function.outputs])
        self._nodes = {node.name: node for node in self._definition.node}
        with tf.Graph().as_default() as self._graph:
            tf.import_graph_def(self._definition, name="")
        inputs = traced.inputs[: len(traced.inputs) - len(captures)]
        self._inputs = [self._graph.get_tensor_by_name(each.name) for each in inputs]
        self._outputs = [
            self._graph.get_tensor_by_name(renamed.get(each.name, each.name))
            for each in function.outputs
        ]
        self._where: dict[str, int] = {}
        self._operations = in_order(self._graph)
        for operation in self._operations:
            self._where[operation.name] = self._server_of(operation)
        self.parts = self._divide()

    def __call__(self, *args: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Runs it, in a graph.

        Returns:
          The function's outputs, flat, and a sign for each part that it is done.
        """
        known = {each.name: arg for each, arg in zip(self._inputs, args, strict=True)}
        done: dict[str, Tensor] = {}  # By operation: a sign that its part is done.
        for part in self.parts:
            mine = {operation.name for operation in part.operations}
            needs, after = self._needs(part, mine)
            results = self._results(mine)
            run = self._runner(part, needs, results)
            signs = {id(done[name]): done[name] for name in after if name in done}
            # What a part returns comes when all of it is done, and so is its sign.
            for name in needs:
                signs.pop(id(done.get(name.partition(":")[0])), None)
            values = [known[name] for name in needs]
            *found, sign = graphs.on_server(part.server, run, values, list(signs.values()))
            known.update(zip(results, found, strict=True))
            done.update({name: sign for name in mine})
        outputs = [self._output(output, known) for output in self._outputs]
        return outputs, list({id(sign): sign for sign in done.values()}.values())

    # ---- Where and when -----------------------------------------------------------------------

    def _server_of(self, operation: Operation) -> int:
        """Returns the server that an operation runs on."""
        if operation.type == "Placeholder":
            return self._server_of_placeholder(operation)
        wanted = {
            self._where[each.op.name]
            for each in operation.inputs
            if each.dtype == tf.resource and self._where[each.op.name] != ANYWHERE
        }
        if len(wanted) > 1:
            raise ValueError(f"{operation.name} ({operation.type}) needs variables of {wanted}.")
        if wanted:
            return wanted.pop()
        device = tf.DeviceSpec.from_string(operation.device or "")
        before = [self._where[each.op.name] for each in operation.inputs]
        before += [self._where[each.name] for each in operation.control_inputs]
        if device.job == "ps" and device.task is not None:
            pure = not operation.op_def.is_stateful and all(each == ANYWHERE for each in before)
            return ANYWHERE if pure else int(device.task)
        known = [each for each in before if each != ANYWHERE]
        if known:
            return known[0]
        return 0 if operation.op_def.is_stateful else ANYWHERE

    def _server_of_placeholder(self, operation: Operation) -> int:
        """Returns where an argument lies: a variable on its server, all else on the first."""
        outside = self._captured.get(operation.outputs[0].name)
        if outside is None:
            return 0
        device = outside.device or ""
        return runtime.ps_index(device) if runtime.is_on_ps(device) else 0

    def _divide(self) -> list[Part]:
        """Returns the parts, in an order in which they can run.

        An operation belongs to a turn: how often what it needs has gone from server to server, at
        least, and then as late as those allow that need it.
        """
        operations = [
            operation
            for operation in self._operations
            if operation.type != "Placeholder" and self._where[operation.name] != ANYWHERE
        ]
        earliest: dict[str, int] = {}
        for operation in operations:
            here = self._where[operation.name]
            earliest[operation.name] = max(
                (
                    earliest[name] + (self._where[name] != here)
                    for name in self._before(operation)
                    if name in earliest
                ),
                default=0,
            )
        last = max(earliest.values(), default=0)
        turn = dict.fromkeys(earliest, last)
        for operation in reversed(operations):
            for name in self._before(operation):
                if name in turn:
                    away = self._where[name] != self._where[operation.name]
                    turn[name] = min(turn[name], turn[operation.name] - away)
        groups: dict[tuple[int, int], list[Operation]] = {}
        for operation in operations:
            key = turn[operation.name], self._where[operation.name]
            groups.setdefault(key, []).append(operation)
        return [Part(server, groups[when, server]) for when, server in sorted(groups)]

    def _before(self, operation: Operation) -> list[str]:
        """Returns the operations that an operation waits for, by name.

        What waits on different servers is there by itself: that TensorFlow takes it in the order in
        which it was traced would let servers wait for each other.
        """
        names = [each.op.name for each in operation.inputs]
        return names + [each.name for each in self._controls(operation)]

    def _controls(self, operation: Operation) -> list[Operation]:
        """Returns the operations that one waits for without using what they return."""
        return [
            each
            for each in operation.control_inputs
            if each.type not in _LOCAL or self._where[each.name] == self._where[operation.name]
        ]

    # ---- What crosses -------------------------------------------------------------------------

    def _needs(self, part: Part, mine: set[str]) -> tuple[list[str], list[str]]:
        """Returns the tensors of other parts that one takes, and the operations it waits for."""
        tensors: dict[str, None] = {}
        after: dict[str, None] = {}
        for operation in part.operations:
            for each in operation.inputs:
                name = each.op.name
                if name in mine or self._where[name] == ANYWHERE or each.name in self._captured:
                    continue
                tensors[each.name] = None
            for each in self._controls(operation):
                if each.name not in mine:
                    after[each.name] = None
        return list(tensors), list(after)

    def _results(self, mine: set[str]) -> list[str]:
        """Returns the tensors of a part that others take, or that are outputs."""
        found: dict[str, None] = {}
        for operation in self._operations:
            if operation.name not in mine and self._where[operation.name] != ANYWHERE:
                found.update((i.name, None) for i in operation.inputs if i.op.name in mine)
        found.update((each.name, None) for each in self._outputs if each.op.name in mine)
        return list(found)

    def _runner(self, part: Part, needs: list[str], results: list[str]) -> Callable[..., Any]:
        """Returns the function of a part: from what it needs to its results, and a sign."""
        names = self._with_constants(part)
        captured = {
            each.name
            for operation in part.operations
            for each in operation.inputs
            if each.name in self._captured
        }
        definition = tf.compat.v1.GraphDef()
        definition.versions.CopyFrom(self._definition.versions)
        definition.library.CopyFrom(self._definition.library)
        for name in names:
            node = definition.node.add()
            node.CopyFrom(self._nodes[name])
            kept = [i for i in node.input if not i.startswith("^") or i[1:] in names]
            del node.input[:]
            node.input.extend(kept)
            node.device = ""  # It is where its part is; so is what it was to lie beside.
            node.attr.pop("_class", None)

        def run(values: Sequence[Tensor], signs: Sequence[Tensor]) -> list[Tensor]:
            del signs  # The function is not called before they are there.
            known = dict(zip(needs, values, strict=True))
            graph = tf.compat.v1.get_default_graph()
            known |= {name: graph.capture(self._captured[name]) for name in captured}
            found = tf.import_graph_def(
                definition, input_map=known, return_elements=results, name=""
            )
            return [*found, tf.constant(True)]

        return run

    def _with_constants(self, part: Part) -> set[str]:
        """Returns a part's operations and the constants that they are made of, by name."""
        names = {operation.name for operation in part.operations}
        todo = list(part.operations)
        while todo:
            for name in self._before(todo.pop()):
                if name not in names and self._where[name] == ANYWHERE:
                    names.add(name)
                    todo.append(self._graph.get_operation_by_name(name))
        return names

    def _output(self, output: Tensor, known: dict[str, Tensor]) -> Tensor:
        if output.name in known:
            return known[output.name]
        if output.name in self._captured:
            return self._captured[output.name]
        raise ValueError(f"the output {output.name} is a constant.")
