"""Private TensorFlow for cutting a graph across servers into as few functions as possible.

TensorFlow runs a graph that is spread over servers operation by operation, and sends each tensor
between servers by itself. An optimizer's update of a hundred variables is a thousand operations,
and crosses the network as often as these need each other. Here all operations that a server can run
in one go become one function. With SGD or Adam there is one function per server, and only the
learning rate crosses.

Each entry names the internals that it relies on. If a TensorFlow release moves them, one line here
breaks, and no other file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_backup._tf import graphs, runtime
from tf_backup._tf.simplified import controls, in_order, simplified
from tf_backup.annotations import Operation, Tensor

_LOCAL = {"MapStage", "MapUnstage", "MapClear"}  # Their effects are local to a server.
ANYWHERE = -1  # For what is computed from constants alone: each function has a copy.


class Part(NamedTuple):
    """The operations that one server runs in one go."""

    server: int
    operations: list[Operation]


class Cut:
    """A traced function, cut into functions that each run on one server.

    Args:
      function: a concrete function of tensors, whose operations have devices.

    Raises:
      ValueError: if an operation needs several servers at once, such as a branch that uses
        variables on more than one.
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
        """Run the function, in a graph.

        Returns:
          The function's flat outputs, and a tensor for each part that signals its completion.
        """
        known = {each.name: arg for each, arg in zip(self._inputs, args, strict=True)}
        done: dict[str, Tensor] = {}  # By operation: completion signal of its part.
        for part in self.parts:
            mine = {operation.name for operation in part.operations}
            needs, after = self._needs(part, mine)
            results = self._results(mine)
            run = self._runner(part, needs, results)
            signs = {id(done[name]): done[name] for name in after if name in done}
            # A part's results arrive only when all of it is done, and so replace its signal.
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
        """Return the server that an operation runs on."""
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
        before += [self._where[each.name] for each in controls(operation)]
        if device.job == "ps" and device.task is not None:
            pure = not operation.op_def.is_stateful and all(each == ANYWHERE for each in before)
            return ANYWHERE if pure else int(device.task)
        known = [each for each in before if each != ANYWHERE]
        if known:
            return known[0]
        return 0 if operation.op_def.is_stateful else ANYWHERE

    def _server_of_placeholder(self, operation: Operation) -> int:
        """Return the server of an argument: a variable's own server, else the first one."""
        outside = self._captured.get(operation.outputs[0].name)
        if outside is None:
            return 0
        device = outside.device or ""
        return runtime.ps_index(device) if runtime.is_on_ps(device) else 0

    def _divide(self) -> list[Part]:
        """Return the parts, in an order in which they can run.

        The parts are grouped into turns, with crossings between servers only from one turn to the
        next, and as few turns as possible. Each operation runs as late as those that need it allow.
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
        """Return the operations that an operation waits for, by name.

        These leave out control dependencies on stages of other servers, which TensorFlow adds in
        the order of tracing. With them, servers would wait for each other.
        """
        names = [each.op.name for each in operation.inputs]
        return names + [each.name for each in self._controls(operation)]

    def _controls(self, operation: Operation) -> list[Operation]:
        """Return the operations that one waits for without using their results."""
        return [
            each
            for each in controls(operation)
            if each.type not in _LOCAL or self._where[each.name] == self._where[operation.name]
        ]

    # ---- What crosses -------------------------------------------------------------------------

    def _needs(self, part: Part, mine: set[str]) -> tuple[list[str], list[str]]:
        """Return the tensors of other parts that a part uses, and the operations it waits for."""
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
        """Return the tensors of a part that other parts use or that are outputs."""
        found: dict[str, None] = {}
        for operation in self._operations:
            if operation.name not in mine and self._where[operation.name] != ANYWHERE:
                found.update((i.name, None) for i in operation.inputs if i.op.name in mine)
        found.update((each.name, None) for each in self._outputs if each.op.name in mine)
        return list(found)

    def _runner(self, part: Part, needs: list[str], results: list[str]) -> Callable[..., Any]:
        """Return the function of a part, which maps its needs to its results and a signal."""
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
            node.device = ""  # The part has the device, also for colocated operations.
            node.attr.pop("_class", None)

        def run(values: Sequence[Tensor], signs: Sequence[Tensor]) -> list[Tensor]:
            del signs  # They only delay the call until they are available.
            known = dict(zip(needs, values, strict=True))
            graph = tf.compat.v1.get_default_graph()
            known |= {name: graph.capture(self._captured[name]) for name in captured}
            found = tf.import_graph_def(
                definition, input_map=known, return_elements=results, name=""
            )
            return [*found, tf.constant(True)]

        return run

    def _with_constants(self, part: Part) -> set[str]:
        """Return a part's operations and the constants that they use, by name."""
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
