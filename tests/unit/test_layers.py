"""Who may import whom, read from the source: the architecture as a test."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "hapi").rglob("*.py")
}
PURE = (
    "hapi.lifecycle",
    "hapi.errors",
    "hapi.ids",
    "hapi.wire",
    "hapi.broker.books",
    "hapi.broker.core",
    "hapi.broker.deferrals",
    "hapi.broker.line",
    "hapi.broker.losses",
    "hapi.broker.requests",
    "hapi.broker.restarts",
    "hapi.broker.peers",
    "hapi.broker.sessions",
    "hapi.broker.spawns",
    "hapi.broker.processes",
    "hapi.broker.upgrade",
    "hapi.broker.waits",
    "hapi.handoff",
    "hapi.broker.effects",
    "hapi.workers.orders",
    "hapi.workers.supervisor.permissions",
    "hapi.workers.supervisor.acp_events",
    "hapi.workers.supervisor.acp_tools",
    "hapi.workers.supervisor.allowances",
    "hapi.workers.supervisor.pieces",
    "hapi.workers.supervisor.questions",
    "hapi.workers.supervisor.environment",
    "hapi.workers.supervisor.escapes",
    "hapi.terminal.recorder",
    "hapi.loadtest.events",
    "hapi.loadtest.ledger",
    "hapi.loadtest.page",
    "hapi.loadtest.plan",
    "hapi.loadtest.plot",
    "hapi.loadtest.report",
    "hapi.loadtest.side",
    "hapi.loadtest.stats",
    *(name for name in MODULES if name.startswith("hapi.terminal.screen")),
)
IMPURE = {"zmq", "psutil", "asyncio", "time", "os", "socket", "subprocess", "signal", "threading"}


def imports(name):
    """Every module that a module imports anywhere in it, `from a import b` as a.b where that is a module."""
    path = MODULES[name]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {full if full in MODULES else node.module for full in whole}
    return found


def at_import(name):
    """As `imports`, but only what happens when the module is loaded: no function bodies, no TYPE_CHECKING."""
    found = set()
    queue = list(ast.parse(MODULES[name].read_text()).body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {full if full in MODULES else node.module for full in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        queue += ast.iter_child_nodes(node)
    return found


GRAPH = {name: imports(name) for name in MODULES}


def importers(package):
    """The modules of ours that import a package of others."""
    return {name for name, found in GRAPH.items() if any(f"{part}.".startswith(f"{package}.") for part in found)}


def test_the_source_is_found():
    assert {"hapi.wire", "hapi.broker.core", "hapi.workers.supervisor.session"} <= set(MODULES)
    assert "hapi.lifecycle" in GRAPH["hapi.broker.core"]


ALLOWED = {
    "zmq": {
        "hapi.broker.transport",
        "hapi.broker.app",
        "hapi.broker.workforce",
        "hapi.workers.link",
        "hapi.control",
        "hapi.cli.diagnosis",
        "hapi.loadtest.line",
    },
    "psutil": {
        "hapi.procs",
        "hapi.control",
        "hapi.workers.hub.machine",
        "hapi.cli.doctor",
        "hapi.cli.diagnosis",
        "hapi.cli.clean",
        "hapi.loadtest.gauge",
    },
    "socketio": {"hapi.workers.hub.door"},
    "engineio": {"hapi.workers.hub.door"},
    "acp": set(),  # with its models in pydantic, 20 MB and half a second: the tests' oracle
    "pydantic": set(),
    "multiprocessing": {"hapi.broker.nursery", "hapi.workers.nursery"},
    "sqlite3": set(),
    "pickle": set(),
    "requests": set(),
    "http.server": set(),
}


@pytest.mark.parametrize("package", ALLOWED)
def test_libraries_stay_where_they_belong(package):
    assert importers(package) - ALLOWED[package] == set()


def test_the_command_line_library_stays_in_the_command_line():
    assert {name for name in importers("typer") if not name.startswith("hapi.cli.")} <= {"hapi.cli"}


def test_asyncio_stays_out_of_broker_and_command_line_basics():
    found = {name for name in importers("asyncio") if not name.startswith(("hapi.workers.", "hapi.loadtest."))}
    assert {name for name in found if not name.startswith("hapi.cli.")} == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("hapi.broker")))
def test_the_broker_knows_of_its_workers_only_their_orders(name):
    found = {module for module in GRAPH[name] if module.startswith(("hapi.workers", "hapi.cli", "hapi.agents"))}
    assert found <= {"hapi.workers.orders"}


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("hapi.workers")))
def test_workers_know_neither_broker_nor_command_line(name):
    assert {module for module in GRAPH[name] if module.startswith(("hapi.broker", "hapi.cli"))} == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("hapi.workers.supervisor")))
def test_supervisors_do_not_know_the_hub(name):
    assert {module for module in GRAPH[name] if module.startswith("hapi.workers.hub")} == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("hapi.workers.hub")))
def test_the_hub_connector_does_not_know_supervisors(name):
    assert {module for module in GRAPH[name] if module.startswith("hapi.workers.supervisor")} == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.count(".") == 1))
def test_the_basics_know_none_above_them(name):
    if name in {"hapi.__main__", "hapi.cli", "hapi.broker", "hapi.workers", "hapi.agents"}:
        return
    assert {module for module in GRAPH[name] if module.startswith(("hapi.broker", "hapi.cli", "hapi.workers"))} == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("hapi.loadtest")))
def test_the_load_test_is_a_client_and_knows_nobody_s_inside(name):
    assert {module for module in GRAPH[name] if module.startswith(("hapi.broker", "hapi.workers", "hapi.cli"))} == set()


def test_only_its_command_knows_the_load_test():
    found = {name for name in MODULES if any(module.startswith("hapi.loadtest") for module in GRAPH[name])}
    assert {name for name in found if not name.startswith("hapi.loadtest")} == {"hapi.cli.loadtest"}


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_touch_nothing(name):
    assert {module.split(".")[0] for module in GRAPH[name]} & IMPURE == set()
    assert {"hapi.clock", "hapi.files", "hapi.procs", "hapi.store"} & GRAPH[name] <= set()


def test_the_verdict_needs_nothing_but_its_facts():
    """`reattach` reads files too; the function that decides uses none of it."""
    tree = ast.parse(MODULES["hapi.broker.reattach"].read_text())
    (function,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "verdict")
    assert {n.id for n in ast.walk(function) if isinstance(n, ast.Name)} <= {"facts", "Facts", "Verdict"}


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("hapi.agents.demo")))
def test_only_the_standard_library_in_the_demo_agent(name):
    foreign = {module for module in GRAPH[name] if not module.startswith("hapi.agents.demo_")}
    assert {module.split(".")[0] for module in foreign} <= set(sys.stdlib_module_names)


def test_no_cycles():
    graph = {name: at_import(name) & set(MODULES) for name in MODULES}
    done, path = set(), []

    def visit(name):
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in graph[name]:
                visit(other)
            done.add(path.pop())

    for name in graph:
        visit(name)
    assert done == set(MODULES)
