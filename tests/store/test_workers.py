"""Two workers with one store: each finds what the other has written, and cannot write over it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import dspy
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models import language_model
from erlport_bridge.programs.pipelines.learned import LearnedPredictor
from erlport_bridge.programs.sessions import Program, during_operation, stored_sessions
from erlport_bridge.programs.values import media, plain
from erlport_bridge.store import ConversationRow, database
from erlport_bridge.store.rows import Rows
from erlport_bridge.term import Atom
from tests.store.worker import Worker

SPEC = {"signature": "question -> answer", "history": True}
LEARNED = {"modules[0]": LearnedPredictor("Answer briefly.", ())}


def with_workers(url: str, test: Callable[[Worker, Worker], Awaitable[None]], **options: Any) -> None:
    """Run a test with two workers of a store, and close them."""
    first, second = Worker(url, **options), Worker(url, **options)

    async def run() -> None:
        await test(first, second)
        # Times are written when nobody waits for them.
        await asyncio.gather(*first.stored._tasks, *second.stored._tasks)

    try:
        asyncio.run(run())
    finally:
        first.store.close()
        second.store.close()


def test_worker_finds_program_conversation_and_model_of_another(url: str) -> None:
    async def test(first: Worker, second: Worker) -> None:
        await first.stored.configure(language_model("embedded", {"temperature": 0.5}), "mine")
        program = await first.create({**SPEC, "config": {"max_tokens": 7}}, "mine")
        await first.tell(program.id, "user", "What?")
        found = await second.find(program.id, "user")
        assert second.stored.was_rehydrated()
        assert {**found.describe(), "calls": 1} == program.describe()
        assert await second.questions(program.id, "user") == ["What?"]
        assert second.sessions.model_for("mine").settings == (("temperature", 0.5),)
        assert [one["id"] for one in await second.stored.all()] == ["mine"]

    with_workers(url, test)


@pytest.mark.parametrize(
    ("spec", "tools"),
    [
        ({"modules": [{"module": "dspy.ReAct", "tools": [{"elixir": "MyApp.Tools.lookup"}, "today"]}]}, []),
        ({"modules": ["dspy.ReAct"]}, [{"elixir": "MyApp.Tools.lookup"}, "brought"]),
        (
            {
                "signature": {
                    "inputs": {
                        "question": Atom("string"),
                        "tags": {"type": (Atom("list"), Atom("string")), "default": ["x"]},
                        "whole": {"type": Atom("any"), "default": {"a": ["x", None]}},
                    },
                    "outputs": {"answer": Atom("string")},
                }
            },
            [],
        ),
        (
            {
                "modules": [
                    {
                        "module": "dspy.BestOfN",
                        "options": {"of": "dspy.Predict", "n": 2, "reward": {"elixir": "MyApp.Rewards.length"}},
                    }
                ]
            },
            [],
        ),
    ],
    ids=["tools", "learned", "defaults", "reward"],
)
def test_worker_finds_exported_functions_and_defaults_of_a_program(
    tmp_path: Path, spec: dict[str, Any], tools: list[Any]
) -> None:
    async def test(first: Worker, second: Worker) -> None:
        created = await first.create({"signature": "question -> answer", **spec})
        version = await first.stored.add_version(created, {}, {"optimizer": "X", "tools": tools})
        found = await second.find(created.id)
        assert second.stored.was_rehydrated()
        assert (found.source, found.compiled) == (version.source, version.compiled)
        assert found.needs.describe() == version.needs.describe()
        for one, other in zip(found.stages, version.stages, strict=True):
            assert one.describe() == other.describe()
        assert found.whole == version.whole

    with_workers(f"sqlite:///{tmp_path}/dspex.db?synchronous=OFF", test)


def test_turns_that_are_read_late_do_not_replace_what_this_worker_did_meanwhile(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large turns are read in a thread, while other calls of the conversation go on."""
    go_on = threading.Event()
    waiting = [go_on]
    read = stored_sessions._turns_of

    def read_late(program: Program, row: ConversationRow) -> tuple[list[dict[str, Any]], list[int]]:
        if waiting:
            waiting.pop().wait(60)
        return read(program, row)

    async def test(first: Worker, second: Worker) -> None:
        program = await first.create(SPEC)
        for number in range(2):
            _, told = await first.begin(program.id, "user")
            await first.end(program, told, {"question": f"Q{number}", "answer": "x" * 100_000})
        await second.find(program.id)
        monkeypatch.setattr(stored_sessions, "_turns_of", read_late)
        reading = asyncio.ensure_future(second.find(program.id, "user"))
        while waiting:
            await asyncio.sleep(0.01)
        found, told = await second.begin(program.id, "user")
        go_on.set()
        await reading
        await second.end(found, told, {"question": "new", "answer": "-"})
        for worker in (second, first):
            assert await worker.questions(program.id, "user") == ["Q0", "Q1", "new"]

    with_workers(url, test)


def test_bytes_of_all_conversations_are_those_in_memory(url: str) -> None:
    async def test(first: Worker, second: Worker) -> None:
        program = await first.create(SPEC)
        for name in ("a", "b", "c"):
            await first.tell(program.id, name, "What?")
            await second.questions(program.id, name)
        for worker in (first, second):
            known = worker.sessions.conversations
            assert known.size == sum(one.size for one in known.of(program.id)) > 0
        await second.stored.conversations.delete(program, "a")
        await second.stored.conversations.seed(program, "b", [{"question": "1", "answer": "2"}] * 3)
        await second.stored.conversations.cut(program, "c", 0)
        known = second.sessions.conversations
        assert known.size == sum(one.size for one in known.of(program.id)) > 0
        await second.stored.delete_program(None, program.id)
        assert known.size == 0

    with_workers(url, test)


@pytest.mark.parametrize("name", ["ü", "back\\slash", "zero\0byte", "\\0", "a" * 1024], ids=range(5))
def test_ids_of_any_text_are_found_again(url: str, name: str) -> None:
    async def test(first: Worker, second: Worker) -> None:
        program = await first.create(SPEC, name)
        await first.tell(program.id, name, "What?")
        assert await second.questions(program.id, name) == ["What?"]
        (session,) = await second.stored.all()
        assert (session["id"], session["programs"]) == (name, [program.id])
        (told,) = await second.stored.conversations.of(program)
        assert (told["id"], told["turn_count"]) == (name, 1)

    with_workers(url, test)


@pytest.mark.parametrize(
    ("type_text", "value"),
    [
        ("str", "ünï\0cøde"),
        ("any", Atom("an_atom")),
        ("any", {"$type": "text", "of": {"a": (1, 2.5, None)}}),
        ("int", 2**70),
        ("image", dspy.Image("https://example.org/a.png")),
        ("image", dspy.Image("data:image/png;base64,iVBORw0KGgo=")),
    ],
)
def test_values_of_turns_are_the_same_after_the_store(tmp_path: Path, type_text: str, value: Any) -> None:
    async def test(first: Worker, second: Worker) -> None:
        media.allow_urls(True)
        program = await first.create({**SPEC, "signature": f"question, thing: {type_text} -> answer"})
        program, told = await first.begin(program.id, "user")
        (turn,) = program.turn_fields.converted([{"question": "What?", "thing": plain(value), "answer": "-"}], "turns")
        await first.end(program, told, turn)
        media.allow_urls(False)
        (kept,) = told.conversation.turns()
        await second.find(program.id, "user")
        (found,) = (await second.stored.conversations.find(program, "user")).turns()
        assert found == kept
        assert type(found["thing"]) is type(kept["thing"])

    with_workers(f"sqlite:///{tmp_path}/dspex.db?synchronous=OFF", test)


def test_turn_of_a_worker_that_was_replaced_meanwhile_is_a_conflict(url: str) -> None:
    async def test(first: Worker, second: Worker) -> None:
        program = await first.create(SPEC)
        await first.tell(program.id, "user", "1")
        paused, told = await first.begin(program.id, "user")
        # The other one has not even answered: it has begun.
        going_on = await second.begin(program.id, "user")
        with pytest.raises(OperationError, match="changed by another worker") as caught:
            await first.end(paused, told, {"question": "late", "answer": "-"})
        assert (caught.value.kind, caught.value.retryable) == ("conflict", True)
        await second.end(*going_on, {"question": "2", "answer": "-"})
        for worker in (first, second):
            assert await worker.questions(program.id, "user") == ["1", "2"]
        await first.tell(program.id, "user", "3")
        assert await second.questions(program.id, "user") == ["1", "2", "3"]

    with_workers(url, test)


def test_call_that_went_on_from_older_turns_is_a_conflict_in_the_same_worker_too(url: str) -> None:
    async def test(first: Worker, second: Worker) -> None:
        program = await first.create(SPEC)
        old, told = await first.begin(program.id, "user")
        await second.tell(program.id, "user", "1")
        await first.tell(program.id, "user", "2")  # it is the owner again
        with pytest.raises(OperationError, match="continued by another worker"):
            await first.end(old, told, {"question": "late", "answer": "-"})
        assert await second.questions(program.id, "user") == ["1", "2"]

    with_workers(url, test)


def test_same_call_adds_one_turn_and_is_answered_with_what_it_got_before(url: str) -> None:
    async def test(first: Worker, second: Worker) -> None:
        program = await first.create(SPEC)
        await first.tell(program.id, "user", "1", key="once")
        again, told = await second.begin(program.id, "user")
        answered = await second.stored.conversations.answered(again, told, "once")
        assert answered == {"question": "1", "answer": "-", "$meta": {}}
        assert await second.stored.conversations.answered(again, told, "other") is None
        with pytest.raises(OperationError, match="changed by another worker"):
            await second.end(again, told, {"question": "1", "answer": "-"}, "once")
        assert await first.questions(program.id, "user") == ["1"]

    with_workers(url, test)


def test_a_call_that_asked_before_the_conversation_began_disturbs_no_other(url: str) -> None:
    """What it had read, when the store answered late, ended the claim of the call that had begun it meanwhile."""
    worker = Worker(url)
    glance = worker.store.glance

    async def test() -> None:
        asked, goes_on = asyncio.Event(), asyncio.Event()

        async def late(*args: Any) -> Any:
            found = await glance(*args)
            asked.set()
            await goes_on.wait()
            return found

        program = await worker.create(SPEC)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker.store, "glance", late)
            other = asyncio.ensure_future(worker.stored.refresh(program_id=program.id, conversation_id="user"))
            await asked.wait()
        running, told = await worker.begin(program.id, "user")
        goes_on.set()
        await other
        await worker.end(running, told, {"question": "1", "answer": "-"})
        assert await worker.questions(program.id, "user") == ["1"]

    asyncio.run(test())
    worker.store.close()


def test_versions_that_two_workers_add_are_both_there(url: str) -> None:
    async def test(first: Worker, second: Worker) -> None:
        program = await first.create(SPEC)
        found = await second.find(program.id)
        await asyncio.gather(
            first.stored.add_version(program, LEARNED, {"optimizer": "a"}),
            second.stored.add_version(found, LEARNED, {"optimizer": "b"}),
        )
        third = Worker(url)
        newest = await third.find(program.id)
        versions = third.sessions.versions(newest)
        third.store.close()
        assert sorted(versions) == [1, 2, 3]
        assert {(versions[number].compiled or {}).get("optimizer") for number in (2, 3)} == {"a", "b"}
        assert newest.learned == LEARNED

    with_workers(url, test)


def test_what_one_worker_deletes_the_other_does_not_find(url: str) -> None:
    async def test(first: Worker, second: Worker) -> None:
        kept, deleted = await first.create(SPEC, "mine"), await first.create(SPEC, "mine")
        for program in (kept, deleted):
            for conversation in ("a", "b"):
                await first.tell(program.id, conversation, "1")
                await second.questions(program.id, conversation)
        await second.stored.conversations.delete(kept, "a")
        with pytest.raises(OperationError, match="unknown conversation"):
            await first.questions(kept.id, "a")
        await second.stored.delete_program("mine", deleted.id)
        with pytest.raises(OperationError, match="unknown program"):
            await first.find(deleted.id)
        assert await first.questions(kept.id, "b") == ["1"]
        # Begun anew elsewhere, it has the same id and as many turns.
        await second.tell(kept.id, "a", "new")
        assert await first.questions(kept.id, "a") == ["new"]
        await second.stored.close("mine")
        with pytest.raises(OperationError, match="unknown session"):
            await first.stored.describe("mine")
        assert await first.stored.all() == []

    with_workers(url, test)


def test_turn_of_a_conversation_that_was_deleted_meanwhile_is_gone_with_it(url: str) -> None:
    async def test(first: Worker, second: Worker) -> None:
        program = await first.create(SPEC)
        running, told = await first.begin(program.id, "user")
        await second.stored.conversations.delete(await second.find(program.id), "user")
        await first.end(running, told, {"question": "1", "answer": "-"})
        assert await second.stored.conversations.of(program) == []

    with_workers(url, test)


def test_seeded_and_cut_conversation_is_the_same_elsewhere(url: str) -> None:
    async def test(first: Worker, second: Worker) -> None:
        program = await first.create(SPEC)
        turns = [{"question": str(number), "answer": "-"} for number in range(60)]
        assert (await first.stored.conversations.seed(program, "user", turns))["turn_count"] == 50
        assert await second.questions(program.id, "user") == [str(number) for number in range(10, 60)]
        await first.tell(program.id, "user", "60")
        (listed,) = await second.stored.conversations.of(program)
        assert listed["turn_count"] == 50
        await second.stored.conversations.cut(await second.find(program.id), "user", 2)
        assert await first.questions(program.id, "user") == ["59", "60"]

    with_workers(url, test)


def test_registry_with_a_store_keeps_what_is_used_and_finds_the_rest_again(url: str) -> None:
    async def test(first: Worker, second: Worker) -> None:
        first.sessions._max_programs = 3
        programs = [await first.create(SPEC, f"s-{number}") for number in range(8)]
        assert len(first.sessions.all()) <= 3
        for program in programs:
            await first.tell(program.id, "user", program.id)
        for program in programs:
            assert await first.questions(program.id, "user") == [program.id]
        assert len(await second.stored.all()) == 8

    with_workers(url, test)


def test_session_that_nobody_has_used_for_long_is_removed(url: str) -> None:
    async def test(first: Worker, second: Worker) -> None:
        program = await first.create(SPEC, "old")
        await first.tell(program.id, "user", "1")
        await asyncio.sleep(0.05)
        await second.store.write(lambda rows: rows.expire(3_600_000))
        assert [one["id"] for one in await second.stored.all()] == ["old"]
        await second.store.write(lambda rows: rows.expire(20))
        assert await second.stored.all() == []
        with pytest.raises(OperationError, match="unknown program"):
            await first.find(program.id)

    with_workers(url, test)


def test_workers_remove_what_is_idle_by_themselves_and_keep_what_a_long_call_uses(tmp_path: Path) -> None:
    async def test(first: Worker, second: Worker) -> None:
        idle, used = await first.create(SPEC, "idle"), await first.create(SPEC, "used")
        for program in (idle, used):
            await first.tell(program.id, "user", "1")
        with during_operation():
            _, told = await first.begin(used.id, "user")
            while len(await second.stored.all()) > 1:
                await asyncio.sleep(0.05)
            await asyncio.sleep(3.5)
            await first.end(used, told, {"question": "2", "answer": "-"})
            assert await second.questions(used.id, "user") == ["1", "2"]
        with pytest.raises(OperationError, match="unknown program"):
            await first.find(idle.id)

    with_workers(f"sqlite:///{tmp_path}/dspex.db", test, ttl_ms=3_000)


def test_worker_whose_clock_is_wrong_removes_and_overwrites_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(first: Worker, second: Worker) -> None:
        program = await first.create(SPEC, "mine")
        await first.tell(program.id, "user", "1")
        for hours in (-1, 1):
            monkeypatch.setattr("time.time", lambda hours=hours: 1_800_000_000 + hours * 3600)
            await second.store.write(lambda rows: rows.expire(1_800_000))
            await second.tell(program.id, "user", f"{hours} h")
            await first.tell(program.id, "user", "-")
        assert await first.questions(program.id, "user") == ["1", "-1 h", "-", "1 h", "-"]

    with_workers(url, test)


def _model(key: object, **options: Any) -> Any:
    return language_model("openai", {"model": "gpt", "api_base": "http://127.0.0.1:9/v1", "api_key": key, **options})


def test_no_key_is_stored_and_a_key_of_the_environment_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-of-the-environment")
    path = tmp_path / "dspex.db"

    async def test(first: Worker, second: Worker) -> None:
        for worker in (first, second):
            worker.sessions.configure(_model("sk-of-the-pool"), None)
        await first.stored.configure(_model("sk-of-the-environment"), "environment")
        await first.stored.configure(_model("sk-of-the-pool"), "pool")
        await first.stored.configure(_model("sk-as-text", fallbacks=[{"provider": "embedded"}]), "text")
        own = {"modules": [{"module": "dspy.Predict", "name": "one", "lm": _model("sk-of-a-stage").configuration}]}
        program = await first.create({**SPEC, **own, "lm": _model("sk-of-a-program").configuration}, "text")
        for session, key in (("environment", "sk-of-the-environment"), ("pool", "sk-of-the-pool")):
            await second.stored.refresh(session)
            assert second.sessions.model_for(session).configuration["api_key"] == key
        found = await second.find(program.id)
        # Its fallback model is asked.
        assert second.sessions.model_for("text").fallbacks == ("embedded/extractive",)
        for model in (found.model, found.stages[0].model):
            assert model is not None
            assert model.model == "openai/gpt"
            with pytest.raises(dspy.LMAuthError, match=r"needs its api_key again; .* the pool's option env$"):
                await model.lm.acall("What?")

    with_workers(f"sqlite:///{path}", test)
    with closing(sqlite3.connect(path)) as connection:
        text = "\n".join(connection.iterdump())
    assert "gpt" in text
    assert "sk-" not in text


PORTABLE = [
    ("embedded", {}, True),
    ("openai", {"model": "m", "api_key": "from-the-environment"}, True),
    ("openai", {"model": "m", "api_key": "typed-by-a-person"}, False),
    ("openai_compatible", {"model": "m", "api_base": "http://127.0.0.1:9", "headers": {"x-key": "s"}}, False),
    ("openai", {"model": "m", "api_base": "http://me:secret@127.0.0.1:9/v1"}, False),
    ("embedded", {"fallbacks": [{"provider": "openai", "model": "m", "api_key": "typed-by-a-person"}]}, False),
    ("elixir", {"callback": "7"}, False),
]


@pytest.mark.parametrize("place", ["session", "program", "stage"])
@pytest.mark.parametrize(("provider", "config", "is_portable"), PORTABLE)
def test_program_is_portable_unless_only_its_own_process_knows_a_key_or_function(
    place: str,
    provider: str,
    config: dict[str, Any],
    is_portable: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_KEY", "from-the-environment")

    async def test(first: Worker, _second: Worker) -> None:
        spec: dict[str, Any] = {"signature": "question -> answer"}
        model = {"provider": provider, **config}
        if place == "session":
            await first.stored.configure(language_model(provider, config), "mine")
        elif place == "program":
            spec["lm"] = model
        else:
            spec["modules"] = [{"module": "dspy.Predict", "name": "only", "lm": model}]
        program = await first.create(spec, "mine")
        assert first.stored.is_portable(program) == is_portable

    with_workers(f"sqlite:///{tmp_path}/dspex.db", test)


def test_turn_is_one_read_and_one_write_and_old_turns_go(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    statements: list[str] = []
    run = Rows.run
    # However busy this machine is.
    monkeypatch.setattr(database, "_GLANCE_MS", 10_000)

    def recorded(self: Rows, sql: str, **given: Any) -> Any:
        statements.append(sql.split(maxsplit=1)[0])
        return run(self, sql, **given)

    async def test(first: Worker, second: Worker) -> None:
        program = await first.create(SPEC)
        await first.tell(program.id, "user", "0")
        await asyncio.sleep(0.2)  # times are written in the background
        # The connection has the statements then.
        await first.tell(program.id, "user", "1")
        with monkeypatch.context() as patch:
            patch.setattr(Rows, "run", recorded)
            await first.tell(program.id, "user", "2")
        assert statements in (["SELECT", "UPDATE", "INSERT"], ["SELECT", "WITH"])
        for number in range(3, 53):
            await first.tell(program.id, "user", str(number))
        (told,) = await second.stored.conversations.of(program)
        assert told["turn_count"] == 50
        # What does not fit into memory any more goes from the store with the next turn.
        monkeypatch.setenv("DSPEX_MAX_CONVERSATION_BYTES", "400")
        for number in range(53, 55):
            await first.tell(program.id, "user", str(number))
        known = first.sessions.conversations.find(program.id, "user").turns()
        (told,) = await second.stored.conversations.of(program)
        assert len(known) < 10
        assert told["turn_count"] <= len(known) + 1

    with_workers(url, test)


def test_limits_of_a_session_are_stored(url: str) -> None:
    limits = {"max_cost": 1.5, "max_tokens_total": 100}

    async def test(first: Worker, second: Worker) -> None:
        assert (await first.stored.open("mine", limits))["budget"]["max_cost"] == 1.5
        await first.stored.configure(language_model("embedded", {}), "mine")
        program = await first.create({"signature": "question -> answer"}, "mine")
        await second.find(program.id)
        session = second.sessions.find("mine")
        assert (session.budget.limits._asdict(), session.model is not None) == (limits, True)
        (listed,) = await second.stored.all()
        assert listed["budget"] == {"max_cost": 1.5, "max_tokens_total": 100, "cost": 0.0, "total_tokens": 0}
        # What is not given stays as it is, also where another process has set it.
        await second.stored.open("mine", {})
        assert (await second.stored.open("mine", {"max_cost": 2.0}))["budget"]["max_tokens_total"] == 100
        await first.find(program.id)
        assert first.sessions.find("mine").budget.limits == (2.0, 100)
        await second.stored.open("mine", {"max_cost": None, "max_tokens_total": None})
        await first.find(program.id)
        assert not first.sessions.find("mine").budget.limits.are_set

    with_workers(url, test)


@pytest.mark.parametrize("change", ["turn", "seed", "cut"])
def test_change_is_in_memory_once_when_a_call_at_the_same_time_reads_it(
    url: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn was in memory twice if another call read it from the store before the call that had written it went on."""
    both = [{"question": "one?", "answer": "-"}, {"question": "two?", "answer": "-"}]

    async def test(worker: Worker, _other: Worker) -> None:
        program = await worker.create(SPEC)
        await worker.tell(program.id, "user", "one?")
        conversations, write = worker.stored.conversations, worker.store.write

        async def read_before_going_on(*args: Any) -> Any:
            done = await write(*args)
            await worker.find(program.id, "user")
            return done

        with monkeypatch.context() as patch:
            patch.setattr(worker.store, "write", read_before_going_on)
            if change == "turn":
                await worker.tell(program.id, "user", "two?")
            elif change == "seed":
                await conversations.seed(program, "user", both)
            else:
                await conversations.cut(program, "user", 1)
        expected = ["one?"] if change == "cut" else ["one?", "two?"]
        assert await worker.questions(program.id, "user") == expected
        await worker.tell(program.id, "user", "three?")
        assert await worker.questions(program.id, "user") == [*expected, "three?"]

    with_workers(url, test)
