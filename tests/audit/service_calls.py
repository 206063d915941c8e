"""The verbs of all apps as a call graph, read from their source: who changes rows, who records, who calls whom."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APPS = (
    "keyring", "audit", "operator_access", "devices", "enrollment", "sessions", "enclave", "training", "monitor",
    "operator_api", "qflare_site",
)  # fmt: skip
ALWAYS_WRITES = frozenset(
    {"_raw_delete", "create", "bulk_create", "get_or_create", "update_or_create", "bulk_update", "save", "delete"}
)
WRITTEN_OUT = "writing_cursor"  # who sends a statement of its own that changes rows
ANNOUNCES = "announce_made_key"  # the log is told in that transaction: whoever uses the key owes nothing for it
RECORDS = frozenset({"record_event", "record_events", "with_event"})


@dataclass(frozen=True)
class Verb:
    """One function: its dotted name, whether it writes or records by itself, and the dotted names it calls."""

    name: str
    writes: bool
    records: bool
    calls: frozenset[str]

    @property
    def public(self) -> bool:
        """Whether others may call it."""
        return not any(part.startswith("_") for part in self.name.split("."))


@dataclass
class CallGraph:
    """All verbs by dotted name."""

    verbs: Mapping[str, Verb] = field(default_factory=dict)

    @cached_property
    def writing(self) -> frozenset[str]:
        """Every verb that changes rows, itself or through what it calls."""
        return self._reaching({name for name, verb in self.verbs.items() if verb.writes})

    @cached_property
    def recording(self) -> frozenset[str]:
        """Every verb that records an event, itself or through what it calls."""
        return self._reaching({name for name, verb in self.verbs.items() if verb.records})

    def _reaching(self, start: set[str]) -> frozenset[str]:
        reached = set(start)
        while more := {name for name, verb in self.verbs.items() if name not in reached and verb.calls & reached}:
            reached |= more
        return frozenset(reached)

    def silent(self) -> frozenset[str]:
        """Every public verb that changes rows and never records."""
        return frozenset(name for name in self.writing - self.recording if self.verbs[name].public)


def call_graph(root: Path = ROOT) -> CallGraph:
    """Read the service modules of all apps."""
    return CallGraph({verb.name: verb for path in service_modules(root) for verb in _verbs(path, root)})


def service_modules(root: Path = ROOT) -> Iterator[Path]:
    """Yield every module of an app that holds code of services: all but views, admins, commands and migrations."""
    outside = {"migrations", "models", "management", "core", "demo", "console", "formats", "templatetags"}
    rooms = {"admin.py", "api.py", "models.py", "forms.py", "apps.py", "checks.py", "tasks.py", "settings.py"}
    for app in APPS:
        for path in sorted((root / app).rglob("*.py")):
            if path.name not in rooms and not outside & set(path.relative_to(root).parts):
                yield path


def _verbs(path: Path, root: Path) -> Iterator[Verb]:
    module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = _imported(tree) | {
        node.name: f"{module}.{node.name}" for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield _verb(f"{module}.{node.name}", node, names)
        elif isinstance(node, ast.ClassDef):
            methods = [member for member in node.body if isinstance(member, ast.FunctionDef)]
            yield from (_verb(f"{module}.{node.name}.{method.name}", method, names) for method in methods)


def _imported(tree: ast.Module) -> dict[str, str]:
    """Return what each imported name stands for."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
    return found


def _verb(name: str, node: ast.FunctionDef, names: Mapping[str, str]) -> Verb:
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
    rows = _names_of_rows(node)
    if any(_last_name(call) == ANNOUNCES for call in calls):
        return Verb(name, writes=False, records=False, calls=frozenset())
    return Verb(
        name,
        writes=any(_writes(call, rows) for call in calls),
        records=any(_last_name(call) in RECORDS for call in calls),
        calls=frozenset(filter(None, (_called(call, name, names) for call in calls))),
    )


def _names_of_rows(node: ast.FunctionDef) -> set[str]:
    """Return the local names that are bound to a queryset."""
    bound = [one for one in ast.walk(node) if isinstance(one, ast.Assign) and _is_queryset(one.value, set())]
    return {target.id for one in bound for target in one.targets if isinstance(target, ast.Name)}


def _is_queryset(value: ast.expr, rows: set[str]) -> bool:
    chain = {part.attr for part in ast.walk(value) if isinstance(part, ast.Attribute)}
    return bool({"objects", "filter", "exclude"} & chain) or any(
        isinstance(part, ast.Name) and part.id in rows for part in ast.walk(value)
    )


def _writes(call: ast.Call, rows: set[str]) -> bool:
    if not isinstance(call.func, ast.Attribute):
        return _last_name(call) == WRITTEN_OUT
    if call.func.attr in ALWAYS_WRITES:
        return True
    return call.func.attr == "update" and _is_queryset(call.func.value, rows)


def _last_name(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _called(call: ast.Call, caller: str, names: Mapping[str, str]) -> str | None:
    """Return the dotted name that is called, as far as the source tells."""
    if isinstance(call.func, ast.Name):
        return names.get(call.func.id)
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        owner = call.func.value.id
        if owner == "self":
            return f"{caller.rpartition('.')[0]}.{call.func.attr}"
        return f"{names[owner]}.{call.func.attr}" if owner in names else None
    return None
