"""The one Python file with which an exported model selects its LoRA blocks where clray is not installed.

It is put together from clray's own source: what `plain_model` needs, and what that needs in turn, definition by
definition, so that a model computes the same wherever it runs. Nothing is written twice.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from dataclasses import dataclass, field
from importlib import metadata, util
from itertools import pairwise
from pathlib import Path
from typing import Any

from clray.errors import ModelError

ROOT, WANTED = "clray.models.plain_model", ("put_in", "prompted")
PREFIX = "Selecting"

HEAD = """\
# {model} with LoRA blocks that each prompt selects from (SAPT, https://arxiv.org/abs/2401.08295).
#
# Written by `clray export`, clray {version}, out of clray's own source; each part says which file it is from. It needs
# torch and transformers, and no clray. Transformers runs it when told to:
#
#     AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
#
# The weights of all parts lie in the *.safetensors files beside it; `lora_blocks` in config.json says which there are.
"""

CLASSES = '''
class {prefix}{config}({config}):
    """A {config} whose `lora_blocks` describes blocks and attention."""

    model_type = "{model_type}"


class {prefix}{model}({model}):
    """A {model} with LoRA blocks, weighed for each row of the batch by its prompt."""

    config_class = {prefix}{config}

    def __init__(self, config: {prefix}{config}, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        put_in(self, config.lora_blocks)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """What the model goes on with. The weights of the blocks follow from the prompt alone, once."""
        with prompted(self, kwargs):
            return super().generate(*args, **kwargs)
'''


def model_type(config: Any) -> str:
    """The exported model's type, unknown to transformers: without the code it must not load as a plain model."""
    return f"selecting_{config.model_type}"


def selecting_code(model: Any) -> str:
    """The source of the file for the model's class and configuration.

    ModelError where these are not transformers' own: their code would have to be one file with this.
    """
    import transformers

    kinds = {"config": type(model.config), "model": type(model)}
    for kind in kinds.values():
        if getattr(transformers, kind.__name__, None) is not kind:
            raise ModelError(
                f"{kind.__name__} is no class of transformers, so an exported folder cannot select by itself; export "
                "the blocks with --adapter, or one task with --task"
            )
    names = {name: kind.__name__ for name, kind in kinds.items()}
    found = Gathered()
    for name in WANTED:
        found.take(ROOT, name)
    found.outside |= {("transformers", name) for name in names.values()} | {("typing", "Any")}
    head = HEAD.format(**names, version=metadata.version("clray"))
    classes = CLASSES.format(**names, prefix=PREFIX, model_type=model_type(model.config))
    return f"{head}\n{found.text()}\n{classes}"


@dataclass
class Module:
    """A module of clray: its first words, what each imported name is, the text and the names of each definition."""

    title: str
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    definitions: dict[str, tuple[str, set[str]]] = field(default_factory=dict)


class Gathered:
    """Definitions of clray's modules and all that they need, in an order in which one file can hold them.

    `taken` says which module each name is from; `outside` holds (module, names) of what is imported from elsewhere,
    ("", module) for a module as a whole.
    """

    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}
        self.taken: dict[str, str] = {}
        self.outside: set[tuple[str, str]] = set()

    def take(self, where: str, name: str) -> None:
        """Takes what `name` means in the module `where`, if anything, and what that needs."""
        module = self._module(where)
        if name in module.definitions:
            if self._is_new(name, where):
                for used in sorted(module.definitions[name][1]):
                    self.take(where, used)
        elif name in module.imports:
            origin, imported = module.imports[name]
            if origin.startswith("clray."):
                assert imported in self._module(origin).definitions, f"{where}: import {name} from where it is defined"
                assert imported == name, f"{where}: import {imported} under its own name"
                self.take(origin, name)
            elif self._is_new(name, origin or imported):
                self.outside.add((origin, imported))

    def text(self) -> str:
        """Imports, then what was taken, module after module, those first that others build on."""
        parts = ["from __future__ import annotations", _import_lines(self.outside)]
        for where in self._order():
            module = self.modules[where]
            title = textwrap.fill(f"{where.replace('.', '/')}.py: {module.title}", 118)
            texts = [text for name, (text, _) in module.definitions.items() if self.taken.get(name) == where]
            rule = "-" * 118
            parts.append(textwrap.indent(f"{rule}\n{title}\n{rule}", "# ") + "\n\n\n" + _spaced(texts))
        return "\n\n".join(parts[:2]) + "\n\n" + "\n\n\n".join(parts[2:]) + "\n"

    def _is_new(self, name: str, where: str) -> bool:
        known = self.taken.get(name)
        assert known in (None, where), f"{name} is of {known} and of {where}: in one file it can be one thing only"
        self.taken[name] = where
        return known is None

    def _module(self, where: str) -> Module:
        if where not in self.modules:
            found = util.find_spec(where)
            assert found and found.origin, where
            self.modules[where] = parsed(Path(found.origin).read_text())
        return self.modules[where]

    def _order(self) -> list[str]:
        """The modules that something was taken of, each after those that it imports from."""
        order: dict[str, None] = {}

        def visit(where: str) -> None:
            for name, (origin, _) in self.modules[where].imports.items():
                if self.taken.get(name) == origin and origin in self.modules:
                    visit(origin)
            order[where] = None

        visit(ROOT)
        return list(order)


def parsed(source: str) -> Module:
    """The module of that source. A constant's text has the string under it that describes it."""
    lines, tree = source.splitlines(), ast.parse(source)
    module = Module((ast.get_docstring(tree) or "").partition("\n")[0])
    last = ""
    for node in tree.body:
        if isinstance(node, ast.Import):
            module.imports |= {alias.asname or alias.name: ("", _as(alias)) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            module.imports |= {alias.asname or alias.name: (node.module, _as(alias)) for alias in node.names}
        elif isinstance(node, ast.Expr) and last:
            text, names = module.definitions[last]
            module.definitions[last] = (f"{text}\n{_text(node, lines)}", names)
        last = _defined(node)
        if last:
            names = {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}
            module.definitions[last] = (_text(node, lines), names - {last})
    return module


def _defined(node: ast.stmt) -> str:
    """The name that the statement defines; empty where it is none of the kinds that are copied."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else ""


def _text(node: Any, lines: list[str]) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return "\n".join(lines[first - 1 : node.end_lineno])


def _as(alias: ast.alias) -> str:
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name


def _spaced(texts: list[str]) -> str:
    """The definitions under one another, functions and classes with two empty lines around them."""
    result = texts[0]
    for before, text in pairwise(texts):
        wide = any(each.startswith(("def ", "class ", "@")) for each in (before, text))
        result += ("\n\n\n" if wide else "\n") + text
    return result


def _import_lines(outside: set[tuple[str, str]]) -> str:
    """The import statements, those of the standard library first."""
    grouped: dict[str, list[str]] = {}
    for origin, imported in sorted(outside, key=lambda pair: (pair[0], not pair[1].isupper(), pair[1])):
        grouped.setdefault(origin or f" {imported}", []).append(imported)
    plain = [f"import{origin}" for origin in grouped if origin.startswith(" ")]
    given = [f"from {origin} import {', '.join(names)}" for origin, names in grouped.items() if origin[0] != " "]
    groups: dict[bool, list[str]] = {True: [], False: []}
    for line in [*plain, *given]:
        groups[line.split()[1].partition(".")[0] in sys.stdlib_module_names].append(line)
    return "\n\n".join("\n".join(lines) for lines in groups.values())
