"""The configuration: each variable and key, who wins, and what is said about values that make no sense."""

import json
import socket

import pytest

from hapi import config
from hapi.errors import ErrorCode, HapiError

# field, variable, its text, the value; key in settings.json, its value, the field then; the default
SETTINGS = [
    ("api_url", "HAPI_API_URL", "https://e/x/", "https://e/x", "apiUrl", "http://s:1", "http://s:1", "http://localhost:3006"),
    ("token", "CLI_API_TOKEN", "env-token", "env-token", "cliApiToken", "file-token", "file-token", None),
    ("hostname", "HAPI_HOSTNAME", "env-host", "env-host", "hostname", "file-host", "file-host", socket.gethostname()),
    ("heartbeat_interval_ms", "HAPI_RUNNER_HEARTBEAT_INTERVAL", "5", 5, None, None, None, 60_000),
    ("control_timeout_ms", "HAPI_RUNNER_HTTP_TIMEOUT", "86400000", 86_400_000, None, None, None, 10_000),
    ("ready_timeout_ms", "HAPI_RUNNER_WEBHOOK_TIMEOUT_MS", "1", 1, None, None, None, 15_000),
    ("extra_headers", "HAPI_EXTRA_HEADERS_JSON", '{"a":"b"}', {"a": "b"}, "extraHeaders", {"c": "d"}, {"c": "d"}, {}),
    ("supervised", "HAPI_RUNNER_SUPERVISED", "1", True, None, None, None, False),
    ("handoff_disabled", "HAPI_DISABLE_VERSION_HANDOFF", "true", True, None, None, None, False),
    ("handoff_window_ms", "HAPI_HANDOFF_WINDOW_MS", "1000", 1000, None, None, None, 300_000),
    ("create_directories", None, None, None, "createDirectories", False, False, True),
    ("detach_key", "HAPI_DETACH_KEY", "C-a d", "C-a d", "detachKey", "none", "none", "Ctrl-\\ d"),
    ("agents", None, None, None, "agents", {"x": {"command": "y"}}, {"x": {"command": "y"}}, {}),
]  # fmt: skip
IDS = [row[0] for row in SETTINGS]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def load(home):
    """Loads with settings on disk and an environment of its own."""

    def run(environ=(), content=None, option=None, **namespaces):
        files = {home: content} | {home / "namespaces" / name: value for name, value in namespaces.items()}
        for folder, value in files.items():
            if value is not None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "settings.json").write_text(value if isinstance(value, str) else json.dumps(value))
        return config.load(option, {"HAPI_HOME": str(home), **dict(environ)})

    return run


@pytest.mark.parametrize(("field", "variable", "text", "value", "key", "stored", "then", "default"), SETTINGS, ids=IDS)
def test_precedence(load, home, field, variable, text, value, key, stored, then, default):
    found = load()
    assert (getattr(found, field), found.sources[field]) == (default, "default")
    if key is not None:
        found = load(content={key: stored})
        assert (getattr(found, field), found.sources[field]) == (then, str(home / "settings.json"))
        assert getattr(load(content={key: None}), field) == default
        load(content={key: stored})
    if variable is not None:
        found = load({variable: text})
        assert (getattr(found, field), found.sources[field]) == (value, variable)
        assert getattr(load({variable: ""}), field) == (default if key is None else then)


def test_every_field_is_in_the_table_or_tested_by_name():
    assert set(config.Config.__struct_fields__) == {*IDS, "home", "namespace", "sources"}


BAD = [
    ("HAPI_API_URL", "ftp://x"),
    ("HAPI_API_URL", "localhost:3006"),
    ("HAPI_API_URL", "http://"),
    ("HAPI_API_URL", "http://["),
    ("HAPI_RUNNER_SUPERVISED", "maybe"),
    ("HAPI_DISABLE_VERSION_HANDOFF", "2"),
    ("HAPI_EXTRA_HEADERS_JSON", "{"),
    ("HAPI_EXTRA_HEADERS_JSON", "[]"),
    ("HAPI_EXTRA_HEADERS_JSON", '{"a": 1}'),
    *(
        (variable, text)
        for variable in (
            "HAPI_RUNNER_HEARTBEAT_INTERVAL",
            "HAPI_RUNNER_HTTP_TIMEOUT",
            "HAPI_RUNNER_WEBHOOK_TIMEOUT_MS",
        )
        for text in ("0", "-1", "1.5", "soon", "86400001", " 5", "٣", "1e3", "9" * 5000)
    ),
]


@pytest.mark.parametrize(("variable", "text"), BAD, ids=[f"{name}={text[:12]}" for name, text in BAD])
def test_a_bad_value_names_its_variable(load, variable, text):
    with pytest.raises(HapiError) as caught:
        load({variable: text})
    assert caught.value.code is ErrorCode.BAD_CONFIGURATION
    assert variable in caught.value.message
    assert "configuration.md" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("apiUrl", 5),
        ("cliApiToken", ["x"]),
        ("hostname", {}),
        ("createDirectories", "yes"),
        ("createDirectories", 1),
        ("extraHeaders", {"a": 1}),
        ("extraHeaders", "a: b"),
        ("agents", {"x": 1}),
        ("agents", []),
    ],
)
def test_a_bad_key_is_named(load, key, value):
    with pytest.raises(HapiError) as caught:
        load(content={key: value})
    assert caught.value.code is ErrorCode.BAD_CONFIGURATION
    assert f"settings.json: {key}" in caught.value.message


def test_a_bad_address_in_the_settings_names_the_key(load):
    """It blamed HAPI_API_URL, which was not set."""
    with pytest.raises(HapiError, match="apiUrl"):
        load(content={"apiUrl": "ftp://x"})


@pytest.mark.parametrize("text", ["a b", "../x", "", ".x", "x" * 65, "ü", "a/b", "-x"])
def test_a_bad_namespace(load, text):
    if text:
        with pytest.raises(HapiError) as caught:
            load(option=text)
        assert caught.value.code is ErrorCode.BAD_CONFIGURATION
        assert repr(text) in caught.value.message
    else:
        assert load(option=text).namespace == "default"


@pytest.mark.parametrize("text", ["1", "true", "YES", " on "])
def test_flags_that_mean_yes(load, text):
    assert load({"HAPI_RUNNER_SUPERVISED": text}).supervised is True


@pytest.mark.parametrize("text", ["0", "false", "No", "off", ""])
def test_flags_that_mean_no(load, text):
    assert load({"HAPI_RUNNER_SUPERVISED": text}).supervised is False


@pytest.mark.parametrize(
    "content", ["", "{", "null", "[]", '"x"', "{'a': 1}", '{"a": 1} x', '{"x":' + "[" * 100_000],
    ids=["empty", "cut", "null", "list", "text", "quotes", "tail", "nested"],
)  # fmt: skip
def test_a_damaged_file_is_refused_and_left_alone(load, home, content):
    with pytest.raises(HapiError) as caught:
        load(content=content)
    assert caught.value.code is ErrorCode.BAD_CONFIGURATION
    assert str(home / "settings.json") in caught.value.message
    assert (home / "settings.json").read_text() == content


def test_a_damaged_file_of_a_namespace_is_refused_too(load):
    with pytest.raises(HapiError, match=r"namespaces/work/settings\.json"):
        load(option="work", work="{")


@pytest.mark.parametrize(
    ("option", "environ", "content", "namespace", "source"),
    [
        (None, {}, None, "default", "default"),
        ("a", {"HAPI_NAMESPACE": "b", "CLI_API_TOKEN": "t:c"}, {"cliApiToken": "t:d"}, "a", "--namespace"),
        (None, {"HAPI_NAMESPACE": "b", "CLI_API_TOKEN": "t:c"}, {"cliApiToken": "t:d"}, "b", "HAPI_NAMESPACE"),
        (None, {"CLI_API_TOKEN": "t:c"}, {"cliApiToken": "t:d"}, "c", "CLI_API_TOKEN"),
        (None, {}, {"cliApiToken": "t:d"}, "d", "settings.json"),
        (None, {"CLI_API_TOKEN": "t"}, {"cliApiToken": "t:d"}, "default", "default"),
        (None, {"CLI_API_TOKEN": "t:u:v"}, None, "v", "CLI_API_TOKEN"),
        ("default", {"CLI_API_TOKEN": "t:c"}, None, "default", "--namespace"),
    ],
)
def test_where_the_namespace_comes_from(load, option, environ, content, namespace, source):
    found = load(environ, content, option)
    assert (found.namespace, found.paths.namespace) == (namespace, namespace)
    assert found.sources["namespace"].endswith(source)


@pytest.mark.parametrize(
    ("raw", "namespace", "token"),
    [
        ("t", None, "t"),
        ("t:c", None, "t:c"),
        ("t:c", "default", "t"),
        ("t:c", "work", "t:work"),
        ("t", "work", "t:work"),
        ("t:u:c", "work", "t:u:work"),
    ],
)
def test_the_token_for_a_namespace(load, raw, namespace, token):
    assert load({"CLI_API_TOKEN": raw}, option=namespace).token == token


@pytest.mark.parametrize("raw", ["t:", ":n", ":", "t :n", "t: n", "t:a b", "t:../x"])
def test_a_malformed_token_is_refused_and_not_shown(load, raw):
    with pytest.raises(HapiError) as caught:
        load({"CLI_API_TOKEN": f"secret-{raw}" if raw[0] != ":" else raw})
    assert caught.value.code is ErrorCode.BAD_CONFIGURATION
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"


def test_a_namespaces_own_settings_win(load):
    found = load(content={"apiUrl": "http://home", "hostname": "h"}, option="work", work={"apiUrl": "http://work"})
    assert (found.api_url, found.hostname) == ("http://work", "h")
    assert found.sources["api_url"].endswith("namespaces/work/settings.json")
    assert load(option="other").api_url == "http://home"


@pytest.mark.parametrize("option", ["default", "other"])
def test_another_namespaces_settings_do_not_count(load, option):
    assert load(content={}, option=option, work={"apiUrl": "http://work"}).api_url == config.DEFAULT_API_URL


def test_unknown_keys_and_variables_do_no_harm(load):
    assert load({"HAPI_FROM_THE_FUTURE": "1"}, {"fromTheFuture": {"x": 1}}) == load()


def test_loading_writes_nothing(load, home):
    load(option="work")
    assert not home.exists()


def test_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert config.home_directory({}) == tmp_path / ".hapi"
    assert config.home_directory({"HAPI_HOME": "~/x"}) == tmp_path / "x"
    assert config.home_directory({"HAPI_HOME": "x/../y"}) == tmp_path / "y"
    assert config.load(None, {"HAPI_HOME": "/nowhere"}).sources["home"] == "HAPI_HOME"


def test_a_home_of_a_user_who_is_not_there():
    """`~nobody-here/x` went through as a RuntimeError."""
    with pytest.raises(HapiError) as caught:
        config.load(None, {"HAPI_HOME": "~nobody-here/x"})
    assert caught.value.code is ErrorCode.BAD_CONFIGURATION


def test_trap_18_the_token_is_not_in_its_repr(load):
    found = load({"CLI_API_TOKEN": "canary", "HAPI_EXTRA_HEADERS_JSON": '{"X": "canary"}'})
    assert found.token == "canary"
    assert "canary" not in f"{found!r} {found} {[found]}"
