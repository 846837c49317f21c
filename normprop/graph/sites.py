"""Functions that a forward calls, exchanged for layers.

A trace says where in the code of a module a function was called.  That module gets a class of its
own, a subclass, in which the method calls a layer there: ``self.relu(x)`` for ``F.relu(x)``.
Whatever else is in the method stays as it is written, control flow and all, and a pass costs what
it did; ``F.relu`` and ``nn.ReLU`` are then the same to whoever reads the network.
"""

import __future__

import ast
import builtins
import copy
import functools
import inspect
import linecache
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, count, islice
from types import CodeType, FunctionType

from torch import nn
from torch.nn import functional as F

from normprop import rules
from normprop.functional.parametric import CONVOLUTIONS
from normprop.graph.anatomy import CONTAINERS, joined
from normprop.graph.example import Example
from normprop.graph.passing import ADD, DIVIDE, JOIN, MULTIPLY, SUB
from normprop.graph.rewrite import copied
from normprop.graph.roles import Roles, family_of
from normprop.graph.trace import Node, Trace

# What a result may go into: where it has another mean and scale, a layer behind makes up for it.
_GO_ON = JOIN | {function.__name__ for function in CONVOLUTIONS} | {
    "linear", "bilinear", "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm",
    "scaled_dot_product_attention", "matmul", "__matmul__", "bmm", "einsum", "pad", "interpolate",
    "softmax", "log_softmax", "outputs",
}  # fmt: skip
_REDUCES = {"mean", "sum", "amax", "amin", "max", "min"}
_COUNTS = {"children", "named_children", "modules", "named_modules", "_modules"}


class StaysError(Exception):
    """A function or a layer stays, for the reason that is the message."""


@dataclass
class Site:
    """A place in the code of a module that calls a function.

    Attributes:
        owner: path of the module.
        nodes: its calls, each with the roles of its run.
        layer: what is called there from now on.
        name: of the layer, in its module.
        call: the expression.
        of_tensor: whether that is a method of the input.
        method: the function that the expression is in, and its name and class.
    """

    owner: str
    nodes: list[tuple[Roles, Node]] = field(default_factory=list)
    layer: nn.Module | None = None
    name: str = ""
    call: ast.Call | None = None
    of_tensor: bool = False
    method: tuple[str, FunctionType, type] | None = None

    @property
    def function(self) -> str:
        """What is called, by its name in torch."""
        return self.nodes[0][1].name

    @property
    def takes_all(self) -> bool:
        """Whether the layer is called with whatever the function is called with."""
        return _layer_type(self.function) is rules.ScaledDotProductAttention

    @property
    def place(self) -> str:
        """File and line."""
        return os.path.basename(self.nodes[0][1].where)

    @property
    def path(self) -> str:
        """Of the layer."""
        return joined(self.owner, self.name)

    def runs(self, example: Example) -> bool:
        """Whether an example reaches the layer, or its parts."""
        return any(f"{path}.".startswith(f"{self.path}.") for path in example.reached)


def exchange_functions(
    model: nn.Module, example: Example
) -> tuple[nn.Module, Example, dict[str, str], dict[str, str]]:
    """Have modules call layers where they call functions that have a twin; on a copy.

    Returns the model and its example; by path of a layer what it stands for, and by name of a
    function why calls of it stay.
    """
    found, stays = [], {}

    def stay(site: Site, reason: object) -> None:
        stays.setdefault(site.function, []).append(f"{site.place} stays: it {reason}")

    for site in _sites(example.traces):
        try:
            _settle(site, model.get_submodule(site.owner))
            found.append(site)
        except StaysError as reason:
            stay(site, reason)
    while found:
        made, seen = _with_layers(model, found, example)
        unreached = [site for site in found if seen is None or not site.runs(seen)]
        if not unreached and example.computes_as(seen):
            model, example = made, seen
            break
        for site in unreached or found:
            stay(site, "would be computed otherwise by a layer")
        found = [site for site in found if unreached and site not in unreached]
    exchanged = {
        s.path: f"{s.function} at {s.place} became "
        + " and ".join(map(str, s.layer if isinstance(s.layer, nn.Sequential) else [s.layer]))
        for s in found
    }
    said = {name: "; ".join(dict.fromkeys(reasons)) for name, reasons in stays.items()}
    return model, example, exchanged, said


def _with_layers(model, found, example) -> tuple[nn.Module, Example | None]:
    """A copy of the model with these layers, watched again; or not, where it raises."""
    model = copied(model)
    by_owner: dict[str, list[Site]] = {}
    for site in found:
        by_owner.setdefault(site.owner, []).append(site)
    for owner, sites in by_owner.items():
        _rewrite(model.get_submodule(owner), sites)
    try:
        return model, Example(model, example.inputs, example.keywords)
    except Exception:
        # Whatever a model may raise that finds layers where there were none.
        return model, None


def _sites(runs: tuple[Trace, ...]) -> Iterator[Site]:
    """Calls of functions that a layer computes too, of what the model is called with."""
    found: dict[tuple, Site] = {}
    for run in runs:
        roles = Roles(run, {})
        for node in run.nodes:
            live = not roles.live.isdisjoint(node.inputs)
            if node.site is not None and _layer_type(node.name) is not None and live:
                code, instruction = node.site
                key = node.within, id(code), instruction
                found.setdefault(key, Site(node.within)).nodes.append((roles, node))
    yield from found.values()


@cache
def _layer_types() -> dict[str, type[nn.Module]]:
    found = {"interpolate": nn.Upsample, "mean": nn.AdaptiveAvgPool2d}
    found["scaleddotproductattention"] = rules.ScaledDotProductAttention
    for name, kind in vars(nn).items():
        entry = rules.entry_of_type(kind) if isinstance(kind, type) else None
        taken = entry is not None and entry.family in ("activation", "dropout", "pool")
        if taken and entry.converts and kind is not nn.PReLU:
            found[name.lower()] = kind
    return found


def _layer_type(function: str) -> type[nn.Module] | None:
    return _layer_types().get(function.rstrip("_").replace("_", ""))


# One place


def _settle(site: Site, owner: nn.Module) -> None:
    """Find out which layer is called there, with what.

    Raises:
        StaysError: no layer can be.
    """
    _, node = site.nodes[0]
    _check_class(type(owner))
    site.method = _method_of(type(owner), node.site[0])
    name, function, _ = site.method
    definition = _definition_of(function)
    end = next(islice(node.site[0].co_positions(), node.site[1] // 2, None))[1::2]
    site.call = next(
        (call for call in ast.walk(definition) if isinstance(call, ast.Call) and _end(call) == end),
        None,
    )
    if site.call is None:
        raise StaysError(f"is called past the code of {name}, or by an operator")
    scope = _Scope(definition, function, owner)
    _check_called(site, scope)
    site.layer = _layer(site, scope)
    site.layer.train(owner.training)
    for roles, each in site.nodes:
        _check_end(roles, each, site.layer)


def _check_class(kind: type) -> None:
    if issubclass(kind, CONTAINERS):
        raise StaysError("is called by a container, which counts its layers")
    own = getattr(kind, "_exchanged", (kind,))[0]
    plain = own.__reduce__ is object.__reduce__ and own.__reduce_ex__ is object.__reduce_ex__
    if not plain or hasattr(kind, "__deepcopy__"):
        raise StaysError("is called by a class that is copied in a way of its own")
    try:
        calling_layers(kind, ())
    except Exception as problem:
        # Whatever a class may say to one that inherits from it.
        raise StaysError(f"is called by a class that has no subclass: {problem}") from problem


def _method_of(kind: type, code: CodeType) -> tuple[str, FunctionType, type]:
    """Name, function and class of the method that code is in."""
    for parent in kind.__mro__:
        for name, value in vars(parent).items():
            if isinstance(value, FunctionType) and _holds(value.__code__, code):
                if inspect.getattr_static(kind, name) is not value:
                    raise StaysError(f"is in a {name} that {kind.__name__} has another one for")
                return name, value, parent
    raise StaysError(f"is called by {code.co_name}, which is no method of {kind.__name__}")


def _holds(outer: CodeType, code: CodeType) -> bool:
    return outer is code or any(
        _holds(inner, code) for inner in outer.co_consts if isinstance(inner, CodeType)
    )


def _definition_of(function: FunctionType) -> ast.FunctionDef:
    code = function.__code__
    tree = _parsed("".join(linecache.getlines(code.co_filename, function.__globals__)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min(n.lineno for n in (node, *node.decorator_list))
            if first == code.co_firstlineno and node.args.posonlyargs + node.args.args:
                return node
    raise StaysError(f"is called in {code.co_name}, whose source is not there")


@cache
def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse("")


class _Scope:
    """What names mean in a method, as far as they mean the same in every pass."""

    def __init__(self, definition: ast.FunctionDef, function: FunctionType, owner: nn.Module):
        self.function, self.owner = function, owner
        self.first = _first(definition)
        nodes = list(ast.walk(definition))
        if _COUNTS & {n.attr for n in nodes if isinstance(n, ast.Attribute)}:
            raise StaysError(f"is called in {definition.name}, which counts its layers")
        stored = [n for n in nodes if isinstance(getattr(n, "ctx", None), ast.Store)]
        names = {n.id for n in stored if isinstance(n, ast.Name)}
        if self.first in names:
            raise StaysError(f"is called where {self.first} is given another value")
        self.local = names | {n.arg for n in nodes if isinstance(n, ast.arg)} - {self.first}
        self.changed = {"training"} | {n.attr for n in stored if isinstance(n, ast.Attribute)}

    def value(self, expression: ast.expr) -> object:
        """Of a number, a name from outside, an attribute, and what is made of these.

        Raises:
            LookupError: it may be another one in another pass.
        """
        if isinstance(expression, ast.Constant):
            return expression.value
        if isinstance(expression, ast.Tuple | ast.List):
            return tuple(self.value(entry) for entry in expression.elts)
        if isinstance(expression, ast.UnaryOp) and isinstance(expression.op, ast.USub):
            return -self.value(expression.operand)
        if isinstance(expression, ast.Attribute) and expression.attr not in self.changed:
            try:
                return getattr(self.value(expression.value), expression.attr)
            except AttributeError as problem:
                raise LookupError(ast.unparse(expression)) from problem
        if isinstance(expression, ast.Name) and expression.id not in self.local:
            return self._name(expression.id)
        raise LookupError(ast.unparse(expression))

    def _name(self, name: str) -> object:
        if name == self.first:
            return self.owner
        free = zip(self.function.__code__.co_freevars, self.function.__closure__ or (), strict=True)
        cells = dict(free)
        if name in cells:
            return cells[name].cell_contents
        known = self.function.__globals__
        return known[name] if name in known else vars(builtins)[name]


def _check_called(site: Site, scope: _Scope) -> None:
    """Refuse what may be another function in another pass."""
    call, name = site.call.func, site.function
    try:
        called = scope.value(call)
    except LookupError:
        called = None
    if called is None:
        site.of_tensor = isinstance(call, ast.Attribute) and call.attr == name
        if not site.of_tensor:
            raise StaysError(f"is called as {ast.unparse(call)}")
    elif isinstance(called, nn.Module) or getattr(called, "__name__", "") != name:
        raise StaysError(f"is called inside of {ast.unparse(call)}")


def _arguments(site: Site) -> dict[str, ast.expr]:
    """By name, what the function is called with but for the input."""
    call = site.call
    starred = any(isinstance(a, ast.Starred) for a in call.args)
    if starred or any(k.arg is None for k in call.keywords):
        raise StaysError("is given arguments by a star")
    given = [call.func.value, *call.args] if site.of_tensor else call.args
    named = {k.arg: k.value for k in call.keywords}
    try:
        arguments = _signature(site.function).bind(*given, **named).arguments
    except TypeError as problem:
        raise StaysError(f"is called with what no layer takes: {problem}") from problem
    del arguments["input"]
    return arguments


@cache
def _signature(function: str) -> inspect.Signature:
    """Of a function of torch, whose layer takes the same where it is not written in Python."""
    if function == "mean":
        return inspect.signature(lambda input, dim=None, keepdim=False, *, dtype=None: None)
    # One that may return places too takes whatever there is, and gives it to another.
    known = getattr(F, f"_{function}", getattr(F, function, None))
    try:
        return inspect.signature(known)
    except (TypeError, ValueError):
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        own = inspect.signature(_layer_type(function).__init__).parameters.values()
        own = [p for p in own if p.name != "self" and p.kind is kind]
        return inspect.Signature([inspect.Parameter("input", kind), *own])


def _layer(site: Site, scope: _Scope) -> nn.Module:
    made = _layer_type(site.function)
    if site.takes_all:
        return made()
    given = _arguments(site)
    if site.function == "mean":
        return _pool(site, given, scope)
    known = _signature(site.function).parameters
    kind, taken, options = f"nn.{made.__name__}", inspect.signature(made.__init__).parameters, {}
    if "training" in known:
        follows = ast.unparse(given.pop("training", site.call)) == f"{scope.first}.training"
        if not follows or type(scope.owner).train is not nn.Module.train:
            raise StaysError(f"does not follow {scope.first}.training, as {kind} would")
    for name, expression in given.items():
        try:
            value = scope.value(expression)
        except LookupError as problem:
            text = ast.unparse(expression)
            raise StaysError(f"is given {name}={text}, which may change") from problem
        if name in taken:
            options[name] = value
        elif value != known[name].default:
            raise StaysError(f"is given {name}, which {kind} does not take")
    if site.function.endswith("_"):
        if "inplace" not in taken:
            raise StaysError(f"writes in place, which {kind} does not")
        options["inplace"] = True
    try:
        return made(**options)
    except (TypeError, ValueError) as problem:
        raise StaysError(f"has no {kind}: {problem}") from problem


def _pool(site: Site, given: dict[str, ast.expr], scope: _Scope) -> nn.Module:
    """The average of an image."""
    pool, options = nn.AdaptiveAvgPool2d(1), {"keepdim": False}
    try:
        options |= {name: scope.value(expression) for name, expression in given.items()}
        dims = sorted(d % 4 for d in options.pop("dim"))
    except (LookupError, TypeError) as problem:
        raise StaysError("is no average of an image") from problem
    images = all(len(node.shapes[0]) == 4 for _, node in site.nodes)
    if not images or dims != [2, 3] or options.keys() != {"keepdim"}:
        raise StaysError("is no average of an image")
    return pool if options["keepdim"] else nn.Sequential(pool, nn.Flatten())


def _check_end(roles: Roles, node: Node, layer: nn.Module) -> None:
    """Refuse what goes where the numbers of the function itself are meant."""
    end = roles.end_of_range(layer, node.outputs[0])
    if end:
        raise StaysError(f"keeps its range, as it reaches {end}")
    # What is taken from something else, as by a filter, has to keep its scale beside that.
    mixes = family_of(layer) in ("attention", "pool")
    of_two = ADD | MULTIPLY if mixes else ADD | SUB | MULTIPLY
    waiting = [node.outputs[0]]
    while waiting:
        for user in roles.users.get(waiting.pop(), ()):
            if roles.carries(user) or (user.module is None and user.name in _REDUCES):
                waiting += user.outputs[:1]
            elif node.name == "mean":
                # A map alone; averages are parts of norms, too.
                if user.module is None:
                    raise StaysError(f"goes into {user.name}, which is no layer")
            elif not _makes_up(user, of_two if len(roles.live & {*user.inputs}) == 2 else set()):
                raise StaysError(f"goes into {user.name}, which its numbers may matter to")


def _makes_up(user: Node, of_two: set[str]) -> bool:
    """Whether a call may be given another mean and scale than those of the function."""
    if user.module is not None or user.name.startswith(("functional.", "a hook of")):
        return True
    if len(user.inputs) == 1 and user.name in MULTIPLY | DIVIDE:
        return True
    return user.name in _GO_ON | of_two or _layer_type(user.name) is not None


# A class for a module


def _rewrite(owner: nn.Module, sites: list[Site]) -> None:
    """Give a module the layers, and a class whose methods call them."""
    by_method: dict[str, list[Site]] = {}
    for site in sites:
        site.name = _free_name(owner, site.function.rstrip("_"))
        owner.add_module(site.name, copy.deepcopy(site.layer))
        by_method.setdefault(site.method[0], []).append(site)
    base, texts = getattr(type(owner), "_exchanged", (type(owner), ()))
    new = {
        name: (_rewritten(calls), calls[0].method[2].__name__) for name, calls in by_method.items()
    }
    owner.__class__ = calling_layers(base, tuple((dict(texts) | new).items()))


def _free_name(owner: nn.Module, name: str) -> str:
    names, taken = chain([name], (f"{name}_{i}" for i in count(1))), {*dir(owner)}
    return next(n for n in names if n not in taken)


def _rewritten(calls: list[Site]) -> str:
    """The source of a method that calls layers at these places."""
    definition = copy.deepcopy(_definition_of(calls[0].method[1]))
    definition.decorator_list = []
    first = _first(definition)
    layers = {_end(site.call): site for site in calls}

    class Exchange(ast.NodeTransformer):
        def visit_Call(self, call):
            self.generic_visit(call)
            site = layers.get(_end(call))
            if site is None:
                return call
            layer = ast.Attribute(ast.Name(first, ast.Load()), site.name, ast.Load())
            if site.takes_all:
                return ast.Call(layer, call.args, call.keywords)
            return ast.Call(layer, [_input(call, site.of_tensor)], [])

    return ast.unparse(ast.fix_missing_locations(Exchange().visit(definition)))


def _end(node: ast.expr) -> tuple[int, int]:
    return node.end_lineno, node.end_col_offset


def _first(definition: ast.FunctionDef) -> str:
    return (definition.args.posonlyargs + definition.args.args)[0].arg


def _input(call: ast.Call, of_tensor: bool) -> ast.expr:
    if of_tensor:
        return call.func.value
    return call.args[0] if call.args else next(k.value for k in call.keywords if k.arg == "input")


@cache
def calling_layers(base: type, methods: tuple[tuple[str, tuple[str, str]], ...]) -> type:
    """A class whose methods are written otherwise; its objects are copied and pickled like any.

    By name of a method, its source, and the name of the class that has it.
    """
    names = ("__module__", "__qualname__", "__doc__")
    body = {name: getattr(base, name) for name in names}
    body |= {"_exchanged": (base, methods), "__reduce_ex__": _reduced}
    for name, (source, home) in methods:
        body[name] = _function(inspect.getattr_static(base, name), source, home)
    return type(base)(base.__name__, (base,), body)


def _reduced(self: nn.Module, protocol: int) -> tuple:
    _, _, *state = object.__reduce_ex__(self, max(protocol, 2))
    return _empty, type(self)._exchanged, *state


def _empty(base: type, methods: tuple) -> nn.Module:
    kind = calling_layers(base, methods)
    return kind.__new__(kind)


def _function(plain: FunctionType, source: str, home: str) -> FunctionType:
    """A function like another, of another source."""
    code = plain.__code__
    file = f"<{plain.__qualname__} with layers, {zlib.crc32(source.encode()):08x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    # In a class, for the names of private attributes, and in a function, for those from around it.
    free = ", ".join(name for name in code.co_freevars if name != "__class__")
    tree = ast.parse(f"def around({free}):\n class {home}:\n  pass")
    tree.body[0].body[0].body = ast.parse(source).body
    future = code.co_flags & __future__.annotations.compiler_flag
    made = compile(tree, file, "exec", flags=future, dont_inherit=True)
    for name in ("around", home, plain.__name__):
        inside = [c for c in made.co_consts if isinstance(c, CodeType)]
        made = next(c for c in inside if c.co_name == name)
    cells = dict(zip(code.co_freevars, plain.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in made.co_freevars)
    new = FunctionType(made, plain.__globals__, plain.__name__, plain.__defaults__, closure)
    new.__kwdefaults__ = plain.__kwdefaults__
    functools.update_wrapper(new, plain)
    del new.__wrapped__
    return new
