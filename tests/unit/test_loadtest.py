"""The parts of the load test: its account of messages, its pace, what it refuses, how it reads the hub's events."""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from hapi import wire
from hapi.cli import app
from hapi.cli.loadtest import Live, _carry_out
from hapi.errors import ErrorCode, HapiError
from hapi.footprint import Use
from hapi.loadtest.events import REMEMBERED, Hearing
from hapi.loadtest.ledger import Ledger
from hapi.loadtest.pace import Pace
from hapi.loadtest.plan import RESERVE_BYTES, Plan, check_files, check_hub, check_memory, is_loopback
from hapi.loadtest.report import HUB_SERVER, MOMENTS, WIDTH, Burn, Report, Sessions, as_text, moments
from hapi.loadtest.run import LoadTest
from hapi.loadtest.stage import Hub, Setting, Stage
from hapi.loadtest.web import Account, Web

GB = 2**30


class TestLedger:
    def ledger(self):
        return Ledger("ltab", patience_s=10.0)

    def test_what_is_answered_once_is_well(self):
        ledger = self.ledger()
        numbers = [ledger.send("s", float(at)) for at in range(3)]
        assert numbers == [1, 2, 3]
        for number in numbers:
            assert ledger.answer("s", number, number + 0.5)
        assert ledger.close().faults() == []
        assert list(ledger.round_trips) == [1.5, 1.5, 1.5]

    def test_an_answer_names_its_message_and_no_other(self):
        ledger = self.ledger()
        assert ledger.numbers(f"You said: {ledger.text(17)}") == [17]
        assert ledger.numbers("You said: ltab-1\nltab-2, ltab-3.") == [1, 2, 3]
        assert ledger.numbers("ltabc-1 ltab-x ltab-1234567890 altab 5") == []

    def test_a_message_without_answer_is_lost(self):
        ledger = self.ledger()
        ledger.send("s", 0.0)
        ledger.send("t", 0.0)
        ledger.answer("t", 1, 1.0)
        assert ledger.open() == {"s": [1]}
        assert ledger.close().faults() == ["1 of 2 messages lost"]

    def test_a_second_answer_is_one_too_many(self):
        ledger = self.ledger()
        ledger.send("s", 0.0)
        assert ledger.answer("s", 1, 1.0)
        assert not ledger.answer("s", 1, 2.0)
        assert ledger.close().faults() == ["1 of 1 messages doubled"]

    def test_an_answer_to_nothing_is_strange(self):
        ledger = self.ledger()
        ledger.send("s", 0.0)
        ledger.answer("s", 1, 1.0)
        assert not ledger.answer("s", 2, 1.0)
        assert not ledger.answer("nobody", 1, 1.0)
        assert ledger.close().faults() == ["2 of 1 messages answered though never sent"]

    def test_an_answer_behind_a_later_one_is_out_of_order(self):
        ledger = self.ledger()
        for _ in range(3):
            ledger.send("s", 0.0)
        for number in (1, 3, 2):
            ledger.answer("s", number, 1.0)
        assert ledger.close().faults() == ["1 of 3 messages answered out of order"]

    def test_late_is_told_and_no_fault(self):
        ledger = self.ledger()
        ledger.send("s", 0.0)
        ledger.answer("s", 1, 11.0)
        assert (ledger.close().late, ledger.close().faults()) == (1, [])

    def test_a_message_that_was_refused_and_is_answered_was_taken_after_all(self):
        ledger = self.ledger()
        for _ in range(2):
            ledger.refuse("s", ledger.send("s", 0.0))
        assert ledger.answer("s", 1, 1.0)
        assert not ledger.answer("s", 1, 1.0)
        assert ledger.close().faults() == ["1 of 2 messages doubled", "1 of 2 messages refused"]

    def test_what_was_found_by_reading_again_is_no_measure_of_time(self):
        ledger = self.ledger()
        ledger.send("s", 0.0)
        ledger.answer("s", 1, 99.0, reread=True)
        totals = ledger.close()
        assert (totals.answered, totals.reread, totals.lost, totals.late) == (1, 1, 0, 0)
        assert list(ledger.round_trips) == []

    @given(st.lists(st.tuples(st.sampled_from("st"), st.integers(0, 6), st.booleans()), max_size=60))
    def test_every_message_is_in_one_place(self, steps):
        ledger = self.ledger()
        given_out = {"s": 0, "t": 0}
        first = set()
        for session, number, refuse in steps:
            if number == 0:
                given_out[session] = ledger.send(session, 0.0)
            elif refuse and given_out[session]:
                ledger.refuse(session, min(number, given_out[session]))
            elif ledger.answer(session, number, 1.0):
                assert (session, number) not in first
                first.add((session, number))
        totals = ledger.close()
        assert totals.sent == sum(given_out.values())
        assert totals.answered == len(first)
        assert totals.sent == totals.answered + totals.lost + totals.refused


async def test_turns_come_at_their_rate():
    loop = asyncio.get_running_loop()
    pace, start = Pace(200.0), loop.time()
    await asyncio.gather(*(pace.turn() for _ in range(61)))
    assert loop.time() - start >= (61 - 1) / 200 - 0.11  # what may be made up for
    unlimited = Pace(0)
    for _ in range(1000):
        assert await unlimited.turn()


async def test_who_has_no_turn_before_the_end_is_told_so_at_once_and_takes_none():
    """Else a thousand sessions at ten messages a second would talk for 100 s, whatever the duration was to be."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    pace = Pace(20.0)
    taken = await asyncio.gather(*(pace.turn(start + 0.2) for _ in range(500)))
    assert 3 <= sum(taken) <= 7
    assert loop.time() - start < 5, "a turn of the 500 would have been after 25 s"
    assert not await Pace(0).turn(start)


class TestPlan:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"sessions": 0},
            {"sessions": 10**6},
            {"spawn_rate": -1.0},
            {"message_rate": float("nan")},
            {"patience_s": 0.5},
            {"duration_s": 1e9},
            {"at_once": 0},
            {"messages": -1},
            {"kill": ("agent",)},
        ],
    )
    def test_nonsense_is_refused(self, wrong):
        with pytest.raises(HapiError) as caught:
            Plan(**wrong).check()
        assert caught.value.code is ErrorCode.USAGE

    def test_the_defaults_make_sense(self):
        Plan().check()

    def test_this_machine_goes_by_several_names(self):
        assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.8.9.1", "::1"]))
        assert not any(
            map(is_loopback, ["", "0.0.0.0", "10.0.0.1", "localhost.example.org", "hub", "::", "hub.localhost"])
        )

    def test_a_hub_elsewhere_must_be_meant(self):
        check_hub("http://localhost:3006", allow_remote=False)
        check_hub("https://hub.example.org", allow_remote=True)
        with pytest.raises(HapiError, match="not on this machine"):
            check_hub("https://hub.example.org", allow_remote=False)

    def test_memory_for_all_of_them_or_how_many_fit(self):
        check_memory(100, 10 * 2**20, 2 * GB)
        with pytest.raises(HapiError) as caught:
            check_memory(1000, 10 * 2**20, 2 * GB)
        assert caught.value.hint == f"So many fit: --sessions {(2 * GB - RESERVE_BYTES) // (10 * 2**20)}"

    def test_open_files_for_all_of_them_or_how_many_fit(self):
        check_files(482, 1024)
        with pytest.raises(HapiError) as caught:
            check_files(483, 1024)
        assert "--sessions 482" in caught.value.hint

    def test_what_runs_already_is_of_those_that_fit(self, monkeypatch):
        """Twenty of 50 MB run, 800 MB are left beside the reserve: 36 fit in all, not 16."""
        stage = Stage(None, Setting(agent="demo"), list)
        with stage:
            test = LoadTest(Plan(sessions=100), stage, None, lambda *_: None)
            test._sessions = [str(number) for number in range(20)]
            test._sampled = Weighs(Use(count=20, pss=1000 * 2**20))
            monkeypatch.setattr("hapi.loadtest.run.available_memory", lambda: 800 * 2**20 + RESERVE_BYTES)
            with pytest.raises(HapiError) as caught:
                asyncio.run(test._weigh())
        assert caught.value.hint == "So many fit: --sessions 36"


class Weighs:
    """A gauge whose sessions have this."""

    def __init__(self, use):
        self.use = use

    async def memory(self):
        return {"session": self.use}


class TestStage:
    async def test_a_worker_that_is_down_is_waited_for_before_it_is_killed(self, monkeypatch):
        """Else nothing is killed, and the report says that it was: right after the broker's start there is no connector."""
        with Stage(None, Setting(agent="demo"), list) as stage:
            victim = await asyncio.create_subprocess_exec("sleep", "60")
            pids = itertools.chain([0, 0], itertools.repeat(victim.pid))

            async def status():
                return SimpleNamespace(pid=1, workers={"hub": wire.WorkerStatus(next(pids), 0)})

            monkeypatch.setattr(stage, "status", status)
            try:
                await asyncio.gather(stage.kill("hub"), victim.wait())
            finally:
                with contextlib.suppress(ProcessLookupError):
                    victim.kill()
        assert victim.returncode == -signal.SIGKILL

    def test_a_stage_that_cannot_be_set_leaves_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setattr("hapi.loadtest.stage._SHORT", str(tmp_path))
        environment = dict(os.environ)
        with pytest.raises(HapiError), Stage(None, Setting(agent="demo", namespace="../up"), list):
            pass
        assert list(tmp_path.iterdir()) == []
        assert dict(os.environ) == environment

    def test_what_is_kept_does_not_hold_the_token(self):
        with Stage(Hub("http://127.0.0.1:1", "secret", {}), Setting(agent="demo", keep=True), list) as stage:
            assert "secret" in (stage.path / "h" / "settings.json").read_text()
        try:
            assert stage.path.exists()
            assert not [path for path in stage.path.rglob("*") if path.is_file() and "secret" in path.read_text()]
        finally:
            shutil.rmtree(stage.path)


class SlowSide:
    """A way in on which a session takes until somebody waits for it."""

    name = "slow"

    def __init__(self):
        self.log = []
        self.may_start = asyncio.Event()

    async def spawn(self, _agent, _timeout_s):
        await self.may_start.wait()
        self.log.append("started")
        return "s"

    async def forget(self, _at_once):
        self.log.append("forgotten")
        return 0

    async def close(self):
        self.log.append("closed")


async def test_a_spawn_that_is_under_way_at_the_end_is_waited_for_before_the_hub_is_to_forget():
    """Else its session gets a row at the hub after all rows were deleted."""
    with Stage(None, Setting(agent="demo"), list) as stage:
        stage.stop_runner = stage.start_runner = lambda: asyncio.sleep(0)
        test = LoadTest(Plan(sessions=1), stage, None, lambda *_: None)
        side = test._side = SlowSide()
        spawn = asyncio.create_task(test._spawn(0))
        await asyncio.sleep(0)
        spawn.cancel()
        await asyncio.gather(spawn, return_exceptions=True)
        asyncio.get_running_loop().call_soon(side.may_start.set)
        await test._leave()
    assert side.log == ["started", "forgotten", "closed"]


async def test_an_answer_is_not_lost_because_the_hub_was_busy_when_it_was_looked_for():
    row = {"id": "r", "seq": 1, "content": {"role": "agent", "content": {"type": "codex", "data": {}}}}
    row["content"]["content"]["data"] = {"type": "message", "message": "ltab-1"}
    answers = iter([web.Response(status=503), web.json_response({"messages": [row]})])

    async def messages(_):
        return next(answers)

    hub = web.Application()
    hub.router.add_get("/cli/sessions/s/messages", messages)
    server = TestServer(hub)
    async with server, aiohttp.ClientSession() as http:
        side = Web(Account(str(server.make_url("")).rstrip("/"), "token", {}), Path("/"), None, None)
        side._http = http
        assert await side.reread("s") == ["ltab-1"]


async def test_a_hub_that_sends_us_elsewhere_is_not_followed():
    """It is on this machine, and where it points to may not be."""
    hub = web.Application()

    async def elsewhere(_):
        raise web.HTTPTemporaryRedirect("http://127.0.0.1:1/api/auth")

    hub.router.add_post("/api/auth", elsewhere)
    server = TestServer(hub)
    async with server:
        side = Web(Account(str(server.make_url("")).rstrip("/"), "token", {}), Path("/"), None, None)
        with pytest.raises(HapiError, match="does not take the token"):
            await side.open()
        await side.close()


class Interrupted:
    """A load test that gets a signal, while it leaves or before."""

    def __init__(self, *, leaving):
        self.leaving = leaving
        self.left = False

    async def run(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            await asyncio.sleep(0)
        self.left = True


@pytest.mark.parametrize("leaving", [False, True])
def test_a_signal_ends_the_test_but_not_its_cleaning_up(leaving):
    test = Interrupted(leaving=leaving)
    assert _carry_out(test) is leaving
    assert test.left is leaving


class TestCommand:
    """What is refused before anything starts."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HAPI_HOME", str(tmp_path))
        for name in ("HAPI_NAMESPACE", "HAPI_API_URL", "CLI_API_TOKEN"):
            monkeypatch.delenv(name, raising=False)

    def refused(self, capsys, *options):
        status = app.run(["loadtest", "--json", *options])
        error = json.loads(capsys.readouterr().out)["error"]
        assert status in {1, 2}
        return error

    @pytest.mark.parametrize(
        ("options", "code"),
        [
            (("--local", "--sessions", "0"), "usage"),
            (("--local", "--kill", "everything"), "usage"),
            (("--local", "--html", "/nowhere/load.html"), "usage"),
            (("--local", "--agent", "nobody"), "unknown_agent"),
            ((), "bad_configuration"),
            (("--hub", "https://hub.example.org"), "usage"),
            (("--hub", "nonsense"), "usage"),
            (("--hub", "http://[::1"), "usage"),
            (("--hub", "http://localhost:99999", "--allow-remote-hub"), "usage"),
            (("--at-once", "513", "--local"), "usage"),
        ],
    )
    def test_it_says_why(self, capsys, options, code):
        assert self.refused(capsys, *options)["code"] == code

    def test_without_a_token_it_says_how_to_do_without_a_hub(self, capsys):
        assert "--local" in self.refused(capsys)["hint"]

    def test_somebody_elses_hub_is_not_loaded_by_mistake(self, capsys, monkeypatch):
        monkeypatch.setenv("HAPI_API_URL", "https://hub.example.org")
        monkeypatch.setenv("CLI_API_TOKEN", "secret")
        error = self.refused(capsys)
        assert "not on this machine" in error["message"]
        assert "--allow-remote-hub" in error["hint"]


def event(kind, role, number, data_type="message", text=None, row=""):
    content = {"type": "codex", "data": {"type": data_type, "message": text or f"ltab-{number}"}}
    message = {"id": row or f"r{number}", "seq": number, "content": {"role": role, "content": content}}
    body = {"type": kind, "sessionId": "s1", "message": message}
    return f"data: {json.dumps(body, separators=(',', ':'))}\nid: e{number}\n\n".encode()


class TestEvents:
    def take(self, *chunks):
        heard = []
        hearing = Hearing(lambda session, words: heard.append((session, words)))
        for chunk in chunks:
            hearing.take(chunk)
        return heard, hearing.last_id

    def test_the_words_of_agents_are_heard_and_nothing_else(self):
        stream = b"".join(
            [
                event("message-received", "user", 1),
                event("message-received", "agent", 2, "reasoning"),
                event("message-received", "agent", 3, text="ltab-3"),
                event("session-updated", "agent", 4),
                b": heartbeat\n\n",
                event("message-received", "agent", 5, text='"role":"agent" \n ltab-5'),
                b'data: {"type":"message-received","role":"agent","x":{"type":"message"}}\n\n',
            ]
        )
        assert self.take(stream) == ([("s1", "ltab-3"), ("s1", '"role":"agent" \n ltab-5')], "e5")

    def test_a_block_may_hold_no_event(self):
        assert self.take(b": nothing\n\n") == ([], "")

    @given(st.lists(st.integers(1, 400), max_size=12))
    def test_wherever_the_stream_is_cut_every_answer_is_heard_once(self, cuts):
        stream = b"".join(event("message-received", "agent", number) for number in range(1, 5))
        places = [0, *sorted({min(cut, len(stream)) for cut in cuts}), len(stream)]
        chunks = [stream[begin:end] for begin, end in itertools.pairwise(places)]
        heard, last_id = self.take(*chunks)
        assert heard == [("s1", f"ltab-{number}") for number in range(1, 5)]
        assert last_id == "e4"

    def test_a_row_that_is_told_again_is_heard_once_but_another_row_is_another_answer(self):
        stream = event("message-received", "agent", 1) * 2 + event("message-received", "agent", 1, row="other")
        assert self.take(stream)[0] == [("s1", "ltab-1")] * 2

    def test_what_it_remembers_of_rows_is_bounded(self):
        hearing = Hearing(lambda _session, _words: None)
        for number in range(10 * REMEMBERED):
            hearing.take(event("message-received", "agent", number))
        assert len(hearing._rows["s1"]) == REMEMBERED


class TestLive:
    """On stderr, to somebody who is no terminal here."""

    def lines(self, capsys, *steps):
        live = Live()
        for step in steps:
            live(*step)
        return [line[10:] for line in capsys.readouterr().err.splitlines()]

    def test_each_phase_that_is_done_is_a_line_with_its_number(self, capsys):
        steps = [("spawn", 1, 3), ("spawn", 3, 3), ("talk", 5, 6), ("talk", 6, 6), ("talk", 6, 6), ("clean", 1, 1)]
        assert self.lines(capsys, *steps) == ["3 of 3 sessions started", "6 of 6 messages answered", "cleaning up"]

    def test_where_only_time_sets_an_end_it_says_how_many_there_were(self, capsys, monkeypatch):
        monkeypatch.setattr("hapi.cli.output.is_terminal", lambda _: True)
        Live()("talk", 17, 0)
        assert capsys.readouterr().err.endswith(" s  17 messages answered")


class TestReport:
    def report(self, **more):
        fields = {"version": "0", "machine": "m", "began": "now", "through": "it", "home": "/h", "namespace": "n"}
        ledger = Ledger("x", 1.0)
        for _ in range(2):
            ledger.send("s", 0.0)
        ledger.answer("s", 1, 0.5)
        ledger.answer("s", 2, 0.5)
        return Report(**fields, plan=Plan(sessions=1), sessions=Sessions(asked=1, started=1), messages=ledger.close())

    def test_processor_time_is_of_a_session_of_a_message_or_of_the_time(self):
        report = self.report()
        report.cpu = {
            "spawn": Burn(wall_s=2.0, by_kind={"broker": 0.5, HUB_SERVER: 1.0}, own_s=0.25),
            "idle": Burn(wall_s=10.0, by_kind={"broker": 0.001}, own_s=0.0),
            "talk": Burn(wall_s=4.0, by_kind={"broker": 1.0}, own_s=0.0),
        }
        lines = as_text(report)
        start = next(index for index, line in enumerate(lines) if line.startswith("processor time"))
        assert [line.split("  ")[0] for line in lines[start : start + 6]] == [
            "processor time",
            "broker",
            "hub server",
            "this load test",
            "of a core, runner and sessions",
            "in",
        ]
        assert [line.split()[-6:] for line in lines[start + 1 : start + 2]] == [["500", "ms", "0.01", "%", "500", "ms"]]
        assert lines[start + 4].split()[-6:] == ["25.0", "%", "0.0", "%", "25.0", "%"]
        assert max(map(len, lines)) <= WIDTH

    def test_all_well_only_when_all_is_well(self):
        report = self.report()
        report.judge()
        assert report.wrong == []
        assert as_text(report)[-1].startswith("All well")

    @pytest.mark.parametrize("what", ["failed", "gone", "not_stopped", "left_at_hub"])
    def test_each_kind_of_failure_is_told(self, what):
        report = self.report()
        setattr(report.sessions, what, 1)
        report.judge()
        assert len(report.wrong) == 1
        assert "NOT well:" in as_text(report)

    def test_what_is_left_and_what_was_cut_short_is_told(self):
        report = self.report()
        report.sessions.survivors, report.cut_short = ["session 1f0c"], "the runner died"
        report.judge()
        assert report.wrong == ["it was cut short: the runner died", "was left running: session 1f0c"]

    def test_a_kill_that_did_not_happen_proves_nothing(self):
        report = self.report()
        report.plan = Plan(kill=("broker",))
        report.judge()
        assert report.wrong == ["broker was to be killed, and was not"]

    def test_moments_hold_every_answer_at_its_time(self):
        found = moments([10.0, 10.5, 12.9], [0.25, 0.25, 0.1], start=10.0)
        assert [moment.answers_per_s for moment in found] == [2.0, 0.0, 1.0]
        assert [moment.at_s for moment in found] == [0.5, 1.5, 2.5]
        assert found[0].max == 0.25
        assert moments([], [], 0.0) == []

    @given(st.lists(st.tuples(st.floats(0, 500), st.floats(1e-6, 60)), min_size=1, max_size=200))
    def test_no_moment_is_so_short_that_one_answer_looks_like_many(self, talk):
        sent, took = zip(*talk, strict=True)
        found = moments(sent, took, start=0.0)
        last = max(at + seconds for at, seconds in talk) or 1.0
        assert sum(moment.answers_per_s for moment in found) * last / len(found) == pytest.approx(len(talk))
        assert len(found) <= MOMENTS
        assert len(found) == 1 or last / len(found) >= 1
