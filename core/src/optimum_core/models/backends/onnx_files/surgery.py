"""Changes of an `onnx.ModelProto`: names, branches, and the part of a graph that some outputs need.

Graphs are read without the contents of external files: what is moved are nodes, and references to weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from optimum_core.errors import ArtifactError
from optimum_core.models.sources.onnx_graph import copied


def rename_within(graph: Any, names: Mapping[str, str]) -> None:
    """Give values that nodes read and write other names, in the graphs of branches too."""
    for node in graph.node:
        for used in (node.input, node.output):
            used[:] = [names.get(name, name) for name in used]
        for inner in branches_of(node):
            rename(inner, names)


def rename(graph: Any, names: Mapping[str, str]) -> None:
    """Give values of a graph other names, its inputs and outputs included."""
    rename_within(graph, names)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)
    del graph.value_info[:]


def taken_branch(proto: Any, condition: str, taken: bool, who: str) -> Any:
    """Return the model without its one branching on an input, as if that were `taken`.

    Args:
        condition: the name of the input, of booleans.

    Raises:
        ArtifactError: it does not branch on that input, or more than once.
    """
    found = [node for node in proto.graph.node if node.op_type == "If" and node.input[0] == condition]
    if len(found) != 1:
        why = f"it branches {len(found)} times on {condition!r}, and not once"
        raise ArtifactError(who, why, "export it again, or accelerate the checkpoint that it was made from")
    branch = "then_branch" if taken else "else_branch"
    inlined = copied(next(item.g for item in found[0].attribute if item.name == branch))
    others = _named_as(inlined, list(found[0].output))
    made = copied(proto)
    body = [*inlined.node, *others]
    replace_nodes(made.graph, (item for node in made.graph.node for item in (body if node == found[0] else [node])))
    made.graph.initializer.extend(inlined.initializer)
    drop_input(made.graph, condition)
    return made


def _named_as(branch: Any, names: list[str]) -> list[Any]:
    """Give a branch's outputs these names; return nodes for those that it only hands on."""
    from onnx import helper

    made = {name for node in branch.node for name in node.output}
    renamed: dict[str, str] = {}
    handed = []
    for value, name in zip(branch.output, names, strict=True):
        if value.name in made and value.name not in renamed:
            renamed[value.name] = name
        else:
            handed.append((value.name, name))
    rename(branch, renamed)
    return [helper.make_node("Identity", [renamed.get(old, old)], [new]) for old, new in handed]


def restrict(proto: Any, outputs: Iterable[str]) -> None:
    """Leave only what the outputs of these names need, in their order; inputs that nothing reads go too."""
    graph, names = proto.graph, list(outputs)
    declared = {value.name: copied(value) for value in graph.output}
    del graph.output[:]
    graph.output.extend(declared[name] for name in names)
    wanted, kept = set(names), []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            kept.append(node)
            wanted.update(_reads(node))
    replace_nodes(graph, kept[::-1])
    for values in (graph.input, graph.initializer):
        left = [copied(value) for value in values if value.name in wanted]
        del values[:]
        values.extend(left)
    del graph.value_info[:]


def reads_values(proto: Any, source: str) -> bool:
    """Whether an output depends on the values of an input, and not on its shape alone."""
    reached = {source}
    for node in proto.graph.node:
        if node.op_type != "Shape" and not reached.isdisjoint(_reads(node)):
            reached.update(node.output)
    return any(value.name in reached for value in proto.graph.output)


def replace_nodes(graph: Any, nodes: Iterable[Any]) -> None:
    """Replace all nodes of a graph."""
    copies = [copied(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def drop_input(graph: Any, name: str) -> None:
    """Remove an input of the graph, which one of its nodes makes from now on."""
    kept = [copied(value) for value in graph.input if value.name != name]
    del graph.input[:]
    graph.input.extend(kept)


def branches_of(node: Any) -> Iterator[Any]:
    """Yield the graphs that a node holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def put_beside(graph: Any, location: str, least: int = 1024) -> None:
    """Let `onnx.save_model` write those weights of a graph that have at least so many bytes into a second file.

    Its own arguments for this refuse a name that exists in the working directory, wherever the graph is written.

    Args:
        location: that file's path from the graph's; it does not exist yet.
    """
    from onnx.external_data_helper import set_external_data

    for tensor in graph.initializer:
        if len(tensor.raw_data) >= least:
            set_external_data(tensor, location)
    for node in graph.node:
        for inner in branches_of(node):
            put_beside(inner, location, least)


def weight_bytes(graph: Any) -> int:
    """Return the size of the weights of a graph and its branches: protobuf states no size of a model above 2 GiB.

    Contents of external files count where they were read.
    """
    inner = (branch for node in graph.node for branch in branches_of(node))
    own = (len(item.raw_data) or item.ByteSize() for item in graph.initializer)
    return sum(own) + sum(weight_bytes(branch) for branch in inner)


def _reads(node: Any) -> set[str]:
    """Return the values that a node reads, those of the graph around it in its branches included."""
    found = set(node.input)
    for graph in branches_of(node):
        for inner in graph.node:
            found |= _reads(inner)
        found.update(value.name for value in graph.output)  # a branch may hand on what lies outside
    return found
