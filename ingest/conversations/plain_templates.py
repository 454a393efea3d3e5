"""Whether a chat template is plain: its work and its output are bounded by what it is given.

A chat template is somebody else's program. Almost all of them walk through the messages and put
their parts together, which takes time and memory in proportion; but `{{ 'a' * 3000000000 }}`, a few
nested loops, or a variable that is put behind itself thirty times, are templates as well. A plain
one can be rendered in this process as it is. What is not known to be plain is rendered in a process
with limits (`limited_rendering`), so a construct that is missing here costs time and nothing else.

Proved is: no operation makes much of little (only listed filters, methods and operators, their
numbers constant and small); no macro calls itself; independent loops are at most two deep; and no
variable grows by more than a sum: in every cycle of assignments (`x = x + y`, also through several
variables, loops, macros) one pass takes up each variable at most once. Between cycles, growth is
counted along the assignments, and bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

from jinja2 import nodes

MOST_GROWTH = 256
"""By how much what a plain template makes of a text may exceed it, without loops."""

_LONGEST_SEPARATOR = 16
_WIDEST = 16
_CYCLES_IN_A_ROW = 2
_INDEPENDENT_LOOPS = 2

_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Const, nodes.Name, nodes.If),
    *(nodes.For, nodes.Assign, nodes.AssignBlock, nodes.NSRef, nodes.Getattr, nodes.Getitem),
    *(nodes.Slice, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Add),
    *(nodes.Sub, nodes.Neg, nodes.Concat, nodes.Mod, nodes.CondExpr, nodes.Test, nodes.Filter),
    *(nodes.Call, nodes.Keyword, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Macro),
    *(nodes.Scope, nodes.Break, nodes.Continue),
)
# Those that give back what they were given, or a part of it.
_KEEPING_FILTERS = frozenset(
    "trim string lower upper capitalize title first last list int float safe default d items "
    "selectattr rejectattr select reject map unique reverse sort dictsort attr".split()
)
_COUNTING_FILTERS = frozenset(("length", "count"))
_KEEPING_METHODS = frozenset(
    "strip lstrip rstrip split rsplit splitlines partition rpartition lower upper title capitalize "
    "removeprefix removesuffix items keys values get".split()
)
_COUNTING_METHODS = frozenset(
    "startswith endswith find rfind index rindex count isdigit isalpha isspace isupper "
    "islower".split()
)
_FUNCTIONS = frozenset(("raise_exception", "strftime_now", "namespace"))
_OF_LOOPS = frozenset("index index0 revindex revindex0 length depth depth0".split())


class _NotPlain(Exception):
    """Why a template is not known to be plain."""


@dataclass
class _Assignment:
    """What a variable is made of: names with their number of mentions, and whether only kept."""

    mentions: dict[str, int] = field(default_factory=dict)
    grown: set[str] = field(default_factory=set)  # mentioned under something that multiplies
    calls: set[str] = field(default_factory=set)


def why_not_plain(template: nodes.Template) -> str:
    """Why a parsed template is not known to be plain; "" where it is."""
    try:
        _Analysis(template).check()
    except _NotPlain as reason:
        return str(reason)
    return ""


class _Analysis:
    def __init__(self, template: nodes.Template) -> None:
        self.template = template
        self.macros = {macro.name: macro for macro in template.find_all(nodes.Macro)}
        self.namespaces = {ref.name for ref in template.find_all(nodes.NSRef)}
        self.made: dict[str, list[_Assignment]] = {}

    def check(self) -> None:
        for node in _all_nodes(self.template):
            self._check_node(node)
        self._statements(self.template.body, ())
        for name in self.namespaces:
            every = [known for known in self.made if known.startswith(f"{name}.")]
            self._assign(name, _Assignment(dict.fromkeys(every, 1)))
        self._check_growth()

    # -- single nodes ------------------------------------------------------------------------

    def _check_node(self, node: nodes.Node) -> None:
        kind = type(node)
        if kind not in _NODES:
            raise _NotPlain(kind.__name__)
        if isinstance(node, nodes.For) and node.recursive:
            raise _NotPlain("a recursive loop")
        if isinstance(node, nodes.Mod) and not _counts(node.left):
            raise _NotPlain("% of something that may be a text")
        if isinstance(node, nodes.Filter):
            self._check_filter(node)
        if isinstance(node, nodes.Call):
            self._check_call(node)

    def _check_filter(self, node: nodes.Filter) -> None:
        if node.node is None or node.dyn_args or node.dyn_kwargs:
            raise _NotPlain("a filter of a block")
        given = [*node.args, *(keyword.value for keyword in node.kwargs)]
        name = node.name
        if name == "map" and (
            node.args or len(node.kwargs) != 1 or node.kwargs[0].key != "attribute"
        ):
            raise _NotPlain("a filter by its name")
        if name in _KEEPING_FILTERS or name in _COUNTING_FILTERS:
            return
        if name == "join" and _short_texts(given[:1]):
            return
        if name == "replace" and len(given) == 2 and _replaces_little(given):
            return
        if name in ("tojson", "indent") and all(_small(each) for each in given):
            return
        raise _NotPlain(f"the filter {name}")

    def _check_call(self, node: nodes.Call) -> None:
        if node.dyn_args or node.dyn_kwargs:
            raise _NotPlain("a call with unpacked arguments")
        called = node.node
        if isinstance(called, nodes.Name):
            if called.name in _FUNCTIONS or called.name in self.macros:
                return
            raise _NotPlain(f"a call of {called.name}")
        if isinstance(called, nodes.Getattr):
            name = called.attr
            if name in _KEEPING_METHODS or name in _COUNTING_METHODS:
                return
            if name == "replace" and len(node.args) == 2 and _replaces_little(node.args):
                return
            raise _NotPlain(f"a call of .{name}()")
        raise _NotPlain("a call")

    # -- assignments -------------------------------------------------------------------------

    def _statements(
        self, body: Iterable[nodes.Node], loops: tuple[frozenset[str], ...], into: str = ""
    ) -> None:
        """Note what statements assign; what they write is noted as part of `into`."""
        for node in body:
            if isinstance(node, nodes.Output):
                for each in node.nodes:
                    self._assign(into or "output", self._of(each), whole=False)
            elif isinstance(node, nodes.If):
                branches = [node.body, node.else_, *(each.body for each in node.elif_)]
                for branch in branches:
                    self._statements(branch, loops, into)
            elif isinstance(node, nodes.For):
                self._loop(node, loops, into)
            elif isinstance(node, nodes.Assign):
                self._set(node.target, cast(nodes.Expr, node.node))
            elif isinstance(node, nodes.AssignBlock):
                name = _name_of(node.target)
                self._assign(name, _Assignment())
                self._statements(node.body, loops, name)
                if node.filter is not None:
                    raise _NotPlain("a block with a filter")
            elif isinstance(node, nodes.Macro):
                name = f"{node.name}()"
                self._assign(name, _Assignment())
                parameters = frozenset(argument.name for argument in node.args)
                self._statements(node.body, (parameters,), name)
                for argument, default in zip(
                    reversed(node.args), reversed(node.defaults), strict=False
                ):
                    self._assign(argument.name, self._of(default))
            elif isinstance(node, nodes.Scope):
                self._statements(node.body, loops, into)

    def _loop(self, node: nodes.For, loops: tuple[frozenset[str], ...], into: str) -> None:
        over = self._of(node.iter)
        targets = frozenset(name.name for name in _names(node.target))
        # A loop over a part of what an outer loop stands at takes no longer than that.
        outer = [names for names in loops if not names & set(over.mentions)]
        independent = tuple(outer) if len(outer) < len(loops) else loops
        if len(independent) + 1 > _INDEPENDENT_LOOPS and not _constant(node.iter):
            raise _NotPlain("loops within loops")
        for name in targets:
            self._assign(name, over)
        if node.test is not None:
            self._of(node.test)
        self._statements(node.body, (*independent, targets), into)
        self._statements(node.else_, loops, into)

    def _set(self, target: nodes.Expr, value: nodes.Expr) -> None:
        if isinstance(target, nodes.Tuple):
            for each in target.items:
                self._set(each, value)
            return
        name = _name_of(target)
        namespace = isinstance(value, nodes.Call) and _is_name(value.node, "namespace")
        if namespace:
            assert isinstance(value, nodes.Call)
            for keyword in value.kwargs:
                self._assign(f"{name}.{keyword.key}", self._of(keyword.value))
            if value.args:
                raise _NotPlain("a namespace of something")
            return
        self._assign(name, self._of(value))

    def _assign(self, name: str, assignment: _Assignment, whole: bool = True) -> None:
        if name != "output":
            self.made.setdefault(name, []).append(assignment)

    # -- expressions -------------------------------------------------------------------------

    def _of(self, node: nodes.Node, grown: bool = False) -> _Assignment:
        """The names whose values may become part of an expression's value."""
        found = _Assignment()
        self._collect(node, found, grown)
        return found

    def _collect(self, node: nodes.Node | None, found: _Assignment, grown: bool) -> None:
        def mention(name: str) -> None:
            found.mentions[name] = found.mentions.get(name, 0) + 1
            if grown:
                found.grown.add(name)

        if node is None or isinstance(
            node, nodes.Const | nodes.TemplateData | nodes.Compare | nodes.Not | nodes.Test
        ):
            # A truth is no part of the text, but macros in a condition are called all the same.
            for call in node.find_all(nodes.Call) if node is not None else ():
                self._collect(call, _Assignment(), grown)
            return
        if isinstance(node, nodes.Name):
            mention(node.name)
        elif isinstance(node, nodes.Getattr) and _is_namespace(node.node, self.namespaces):
            assert isinstance(node.node, nodes.Name)
            mention(f"{node.node.name}.{node.attr}")
        elif isinstance(node, nodes.Getattr):
            self._collect(node.node, found, grown)
        elif isinstance(node, nodes.Getitem):
            self._collect(node.node, found, grown)
        elif isinstance(node, nodes.CondExpr):
            branches = [self._of(node.expr1, grown)]
            if node.expr2 is not None:
                branches.append(self._of(node.expr2, grown))
            for branch in branches:
                found.grown |= branch.grown
            for name in {name for branch in branches for name in branch.mentions}:
                most = max(branch.mentions.get(name, 0) for branch in branches)
                found.mentions[name] = found.mentions.get(name, 0) + most
        elif isinstance(node, nodes.Filter):
            if node.name not in _COUNTING_FILTERS:
                keeps = node.name in _KEEPING_FILTERS
                self._collect(node.node, found, grown or not keeps)
                for each in [*node.args, *(keyword.value for keyword in node.kwargs)]:
                    self._collect(each, found, grown)
        elif isinstance(node, nodes.Call):
            self._collect_call(node, found, grown, mention)
        else:
            for child in node.iter_child_nodes():
                self._collect(child, found, grown)

    def _collect_call(self, node: nodes.Call, found: _Assignment, grown: bool, mention) -> None:
        given = [*node.args, *(keyword.value for keyword in node.kwargs)]
        called = node.node
        if isinstance(called, nodes.Name) and called.name in self.macros:
            mention(f"{called.name}()")
            for argument in self.macros[called.name].args:
                for each in given:
                    self._assign(argument.name, self._of(each))
            return
        if isinstance(called, nodes.Getattr):
            if called.attr in _COUNTING_METHODS:
                return
            self._collect(called.node, found, grown or called.attr not in _KEEPING_METHODS)
        for each in given:
            self._collect(each, found, grown)

    # -- growth ------------------------------------------------------------------------------

    def _check_growth(self) -> None:
        cycles = _cycles(
            {
                name: {m for a in made for m in a.mentions if m in self.made}
                for name, made in self.made.items()
            }
        )
        growth: dict[str, int] = {}
        depth: dict[str, int] = {}
        for cycle in cycles:  # those that others depend on come first
            inner = set(cycle)
            circular = len(cycle) > 1 or any(
                cycle[0] in made.mentions for made in self.made[cycle[0]]
            )
            most, deepest = 1, 0
            for name in cycle:
                own = 0
                for made in self.made[name]:
                    within = sum(count for other, count in made.mentions.items() if other in inner)
                    if within > 1 or (within and made.grown & inner):
                        raise _NotPlain(f"{name} grows by more than a sum")
                    if within and name.endswith("()"):
                        raise _NotPlain(f"the macro {name} calls itself")
                    outer = {o: c for o, c in made.mentions.items() if o not in inner}
                    here = sum(growth.get(o, 1) * c for o, c in outer.items())
                    here *= _WIDEST if made.grown else 1
                    own += here
                    deepest = max([deepest, *(depth.get(o, 0) for o in outer)])
                most = max(most, own)
            if most > MOST_GROWTH:
                raise _NotPlain(f"{cycle[0]} grows {most:,}-fold")
            deepest += circular
            if deepest > _CYCLES_IN_A_ROW:
                raise _NotPlain(f"{cycle[0]} grows with what grows")
            for name in cycle:
                growth[name], depth[name] = most, deepest


def _all_nodes(root: nodes.Node) -> Iterator[nodes.Node]:
    yield root
    for child in root.iter_child_nodes():
        yield from _all_nodes(child)


def _names(target: nodes.Node) -> list[nodes.Name]:
    return [target] if isinstance(target, nodes.Name) else list(target.find_all(nodes.Name))


def _name_of(target: nodes.Node) -> str:
    if isinstance(target, nodes.Name):
        return target.name
    if isinstance(target, nodes.NSRef):
        return f"{target.name}.{target.attr}"
    raise _NotPlain("an assignment to a part")


def _is_name(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name


def _is_namespace(node: nodes.Node, namespaces: set[str]) -> bool:
    return isinstance(node, nodes.Name) and node.name in namespaces


def _counts(node: nodes.Node) -> bool:
    """Whether an expression is a number of a loop, or a sum of such and constants."""
    if isinstance(node, nodes.Getattr):
        return _is_name(node.node, "loop") and node.attr in _OF_LOOPS
    if isinstance(node, nodes.Add | nodes.Sub):
        return _counts(node.left) and _counts(node.right)
    return isinstance(node, nodes.Const) and isinstance(node.value, int)


def _constant(node: nodes.Node) -> bool:
    """Whether a loop goes over a list that is written out."""
    return isinstance(node, nodes.List | nodes.Tuple) and len(node.items) <= _WIDEST


def _small(node: nodes.Node) -> bool:
    if not isinstance(node, nodes.Const):
        return False
    value = node.value
    return (
        value is None
        or isinstance(value, bool)
        or (isinstance(value, int) and 0 <= value <= _WIDEST)
    )


def _short_texts(given: list[nodes.Expr]) -> bool:
    return all(
        isinstance(each, nodes.Const)
        and isinstance(each.value, str)
        and len(each.value) <= _LONGEST_SEPARATOR
        for each in given
    )


def _replaces_little(given: list[nodes.Expr]) -> bool:
    return _short_texts(given)


def _cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components (Tarjan), each after those that it depends on."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            component = []
            while True:
                component.append(stack.pop())
                if component[-1] == name:
                    break
            found.append(component)

    for name in graph:
        if name not in index:
            visit(name)
    return found
