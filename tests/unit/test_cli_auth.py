"""`hapi auth`: what is saved where, what the hub is asked, and that the token is never printed."""

import http.server
import io
import json
import stat
import threading

import pytest

from hapi import config
from hapi.cli import app, auth, hubcheck

TOKEN = "canary-secret-token"


class _Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.path, self.headers["Authorization"], self.headers["X-Extra"]))
        good = self.headers["Authorization"] in {f"Bearer {TOKEN}", f"Bearer {TOKEN}:work"}
        self.send_response(404 if good else 401)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        server.seen = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()
        thread.join(10)


@pytest.fixture
def hapi(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HAPI_HOME", str(tmp_path / "h"))
    for name in ("CLI_API_TOKEN", "HAPI_NAMESPACE", "HAPI_API_URL", "HAPI_EXTRA_HEADERS_JSON"):
        monkeypatch.delenv(name, raising=False)

    def run(*words, stdin=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = app.run(list(words))
        out, err = capsys.readouterr()
        assert TOKEN not in out + err
        return code, out, err

    return run


def test_login_saves_a_token_that_the_hub_takes(hapi, hub, monkeypatch):
    monkeypatch.setenv("HAPI_EXTRA_HEADERS_JSON", '{"X-Extra": "1"}')
    code, out, _ = hapi("auth", "login", "--url", hub.url, "--token-stdin", stdin=f"{TOKEN}\n")
    assert code == 0
    assert "Saved the token" in out
    assert hub.seen == [("/cli/machines/x", f"Bearer {TOKEN}", "1")]
    path = config.load().paths.settings
    assert json.loads(path.read_text()) == {"cliApiToken": TOKEN, "apiUrl": hub.url}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    code, out, _ = hapi("auth", "status", "--json")
    found = json.loads(out)
    assert (code, found["hub"], found["tokenSource"]) == (0, "accepted", str(path))
    assert found["tokenFingerprint"] == auth.fingerprint(TOKEN)


def test_login_with_a_refused_token_saves_nothing(hapi, hub):
    code, _, err = hapi("auth", "login", "--url", hub.url, "--token-stdin", stdin="wrong\n")
    assert code == 1
    assert "refuses the token" in err
    assert not config.load().paths.settings.exists()


def test_login_without_a_hub_saves_with_a_note(hapi):
    code, out, err = hapi("auth", "login", "--url", "http://127.0.0.1:1", "--token-stdin", stdin=TOKEN)
    assert code == 0
    assert "Saved" in out
    assert "not verified" in err
    assert hapi("auth", "status")[0] == 0


def test_login_for_a_namespace(hapi, hub):
    hapi("--namespace", "work", "auth", "login", "--url", hub.url, "--token-stdin", stdin=TOKEN)
    path = config.load("work").paths.settings
    assert json.loads(path.read_text())["cliApiToken"] == f"{TOKEN}:work"
    assert config.load("work").token == f"{TOKEN}:work"
    assert config.load().token is None
    code, _, err = hapi("--namespace", "work", "auth", "login", "--token-stdin", stdin=f"{TOKEN}:play")
    assert code == 1
    assert "namespace play" in err


def test_a_token_with_a_namespace_chooses_it(hapi, hub):
    hapi("auth", "login", "--url", hub.url, "--token-stdin", stdin=f"{TOKEN}:work")
    assert config.load().namespace == "work"
    hapi("auth", "login", "--token-stdin", stdin=TOKEN)
    assert config.load().namespace == "default"


def test_login_takes_the_variable(hapi, hub, monkeypatch):
    monkeypatch.setenv("CLI_API_TOKEN", TOKEN)
    code, _, err = hapi("auth", "login", "--url", hub.url)
    assert code == 0
    assert "from CLI_API_TOKEN" in err


@pytest.mark.parametrize("words", [[], ["--token-stdin"]])
def test_login_without_a_token(hapi, words):
    assert hapi("auth", "login", *words)[0] == 2


def test_logout_keeps_the_rest(hapi, monkeypatch):
    path = config.load().paths.settings
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"cliApiToken": TOKEN, "machineId": "m", "theirs": 1}))
    monkeypatch.setenv("CLI_API_TOKEN", TOKEN)
    code, out, err = hapi("auth", "logout")
    assert code == 0
    assert "Removed" in out
    assert "still counts" in err
    assert json.loads(path.read_text()) == {"machineId": "m", "theirs": 1}
    monkeypatch.delenv("CLI_API_TOKEN")
    assert "There is no token" in hapi("auth", "logout")[1]
    assert hapi("auth", "status")[0] == 1


def test_what_is_no_hub(hub):
    assert hubcheck.check(hub.url, None, {}).state == "refused"
    assert hubcheck.check("http://127.0.0.1:1", TOKEN, {}).state == "unreachable"
    assert hubcheck._judge(502).state == "strange"
