"""The fault worker does what its script says, seen byte for byte from a bare socket."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from tests.e2e.fault_worker import (
    LAST_CHUNK,
    Answer,
    BreakStream,
    CloseAfterHead,
    CloseBeforeHead,
    CloseIdleKeepAlive,
    FaultWorker,
    Garbage,
    Hang,
    HangAfterHead,
    Raw,
    ResetBeforeHead,
    SlowHead,
    Status,
    Stream,
    TruncateBody,
    answer_events,
    chunk,
)


class Client:
    """A bare connection to a worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, worker: FaultWorker) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", worker.port))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def post(self, body: bytes = b"{}", path: str = "/v1/completions", headers: str = "") -> None:
        self.send(f"POST {path} HTTP/1.1\r\nHost: w\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def head(self) -> str:
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def answer(self) -> tuple[str, bytes]:
        """A whole answer that has a content-length."""
        head = await self.head()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return head, await self.reader.readexactly(length)

    async def until_closed(self) -> bytes:
        return await self.reader.read()

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@pytest.fixture
async def worker() -> AsyncIterator[FaultWorker]:
    worker = await FaultWorker.start()
    yield worker
    await worker.stop()


@pytest.fixture
async def client(worker: FaultWorker) -> AsyncIterator[Client]:
    client = await Client.to(worker)
    yield client
    client.writer.close()


STREAM = b'{"stream": true}'


async def test_an_unscripted_post_is_answered_with_the_workers_own_port(worker: FaultWorker, client: Client) -> None:
    client.post()
    head, body = await client.answer()
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert json.loads(body)["port"] == worker.port


async def test_an_unscripted_stream_is_whole_events_and_done(worker: FaultWorker, client: Client) -> None:
    worker.default = Answer(events=2)
    client.post(STREAM, headers="Connection: close\r\n")
    head, _, body = (await client.until_closed()).partition(b"\r\n\r\n")
    events = [*answer_events(worker.port, 2), b"data: [DONE]\n\n"]
    assert b"content-type: text/event-stream" in head
    assert body == b"".join(map(chunk, events)) + LAST_CHUNK


async def test_what_was_asked_is_recorded_with_lower_case_headers(worker: FaultWorker, client: Client) -> None:
    client.post(b"abc", path="/generate", headers="X-Twice: 1\r\nX-TWICE: 2\r\n")
    await client.answer()
    [(path, headers, body)] = worker.requests
    assert (path, headers["x-twice"], body) == ("/generate", "1, 2", b"abc")


async def test_a_chunked_request_is_recorded_as_its_body_alone(worker: FaultWorker, client: Client) -> None:
    client.send(b"POST /generate HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\n")
    await worker.until(lambda: worker.connections == 1)
    client.send(b"de\r\n0\r\n\r\n")
    await client.answer()
    assert worker.requests[0].body == b"abcde"


async def test_requests_sent_together_are_answered_in_order_by_the_script(worker: FaultWorker, client: Client) -> None:
    worker.script(Status(429, {"retry-after": "1"}), Status(500, body=b"no"))
    for _ in range(3):
        client.post()
    first, second, third = [await client.answer() for _ in range(3)]
    assert first[0].startswith("HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\n")
    assert (second[0].split()[1], second[1]) == ("500", b"no")
    assert third[0].split()[1] == "200"
    assert worker.connections == worker.open_connections == 1


async def test_probes_have_their_own_answers_and_leave_the_script_alone(worker: FaultWorker, client: Client) -> None:
    worker.script(Status(503))
    answers = {}
    for path in ("/health", "/v1/models", "/generate", "/nothing"):
        client.send(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        answers[path] = await client.answer()
    client.post()
    assert [head.split()[1] for head, _ in answers.values()] == ["200", "200", "405", "404"]
    assert json.loads(answers["/v1/models"][1])["data"][0]["id"] == "m"
    assert (await client.answer())[0].split()[1] == "503"
    assert worker.probes == list(answers)


async def test_what_is_not_http_gets_a_400(client: Client) -> None:
    client.send(b"nonsense\r\n\r\n")
    assert (await client.until_closed()).startswith(b"HTTP/1.1 400 ")


async def test_close_before_head_ends_the_connection_without_a_byte(worker: FaultWorker, client: Client) -> None:
    worker.script(CloseBeforeHead())
    client.post()
    assert await client.until_closed() == b""
    assert (len(worker.requests), worker.aborts) == (1, 0)


async def test_reset_before_head_sends_rst(worker: FaultWorker, client: Client) -> None:
    worker.script(ResetBeforeHead())
    client.post()
    with pytest.raises(ConnectionResetError):
        await client.until_closed()
    assert worker.aborts == 0


async def test_close_after_head_sends_a_head_and_no_body(worker: FaultWorker, client: Client) -> None:
    worker.script(CloseAfterHead())
    client.post(STREAM)
    assert "transfer-encoding: chunked" in await client.head()
    assert await client.until_closed() == b""


@pytest.mark.parametrize("torn", [False, True])
async def test_a_broken_stream_ends_without_its_last_chunk(worker: FaultWorker, client: Client, torn: bool) -> None:
    worker.script(BreakStream(after_events=2, torn=torn))
    client.post(STREAM)
    await client.head()
    *whole, third = map(chunk, answer_events(worker.port, 3))
    tail = third[: len(third) // 2] if torn else b""
    assert await client.until_closed() == b"".join(whole) + tail


async def test_a_broken_stream_can_end_in_a_reset_after_its_events(worker: FaultWorker, client: Client) -> None:
    worker.script(BreakStream(after_events=1, how="reset"))
    client.post(STREAM)
    await client.head()
    [event] = map(chunk, answer_events(worker.port, 1))
    assert await client.reader.readexactly(len(event)) == event
    with pytest.raises(ConnectionResetError):
        await client.until_closed()


async def test_a_truncated_body_is_shorter_than_it_says(worker: FaultWorker, client: Client) -> None:
    worker.script(TruncateBody(sent=3, declared=10))
    client.post()
    assert "content-length: 10\r\n" in await client.head()
    assert await client.until_closed() == b"xxx"


async def test_garbage_is_sent_as_it_is_and_the_connection_ends(worker: FaultWorker, client: Client) -> None:
    worker.script(Garbage(b"\x16\x03\x01"))
    client.post()
    assert await client.until_closed() == b"\x16\x03\x01"


async def test_raw_bytes_leave_the_connection_open(worker: FaultWorker, client: Client) -> None:
    worker.script(Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"))
    client.post()
    assert (await client.answer())[1] == b"hi"
    client.post()
    assert (await client.answer())[0].split()[1] == "200"


@pytest.mark.parametrize("behaviour", [Hang(), HangAfterHead()])
async def test_leaving_a_hung_request_counts_as_one_abort(worker: FaultWorker, behaviour: Hang | HangAfterHead) -> None:
    worker.script(behaviour)
    client = await Client.to(worker)
    client.post()
    await worker.until(lambda: len(worker.requests) == 1)
    if isinstance(behaviour, HangAfterHead):
        await client.head()
    assert worker.open_connections == 1
    await client.leave()
    await worker.until(lambda: worker.open_connections == 0)
    assert worker.aborts == 1


async def test_leaving_in_the_middle_of_a_request_counts_as_an_abort(worker: FaultWorker) -> None:
    client = await Client.to(worker)
    client.send(b"POST /generate HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc")
    await client.leave()
    await worker.until(lambda: worker.connections == 1 and worker.open_connections == 0)
    assert (worker.requests, worker.aborts) == ([], 1)


async def test_leaving_after_a_whole_answer_is_no_abort(worker: FaultWorker) -> None:
    client = await Client.to(worker)
    client.post()
    await client.answer()
    await client.leave()
    await worker.until(lambda: worker.open_connections == 0)
    assert worker.aborts == 0


async def test_a_slow_head_waits_for_its_event_and_then_answers(worker: FaultWorker, client: Client) -> None:
    event = asyncio.Event()
    worker.script(SlowHead(event, then=Status(503)))
    client.post()
    await worker.until(lambda: len(worker.requests) == 1)
    other = await Client.to(worker)
    other.post()
    await other.answer()
    await other.leave()
    assert not client.reader._buffer  # type: ignore[attr-defined]  # nothing came while another was answered in full
    event.set()
    assert (await client.answer())[0].split()[1] == "503"


async def test_a_gated_stream_sends_one_write_for_each_permit(worker: FaultWorker, client: Client) -> None:
    gate = asyncio.Semaphore(1)
    worker.script(Stream([b"data: a\n\n", b"data: b\n\n"], gate))
    client.post(STREAM)
    await client.head()
    assert await client.reader.readexactly(len(chunk(b"data: a\n\n"))) == chunk(b"data: a\n\n")
    assert gate.locked()
    gate.release()
    rest = chunk(b"data: b\n\n") + LAST_CHUNK
    assert await client.reader.readexactly(len(rest)) == rest


async def test_a_raw_stream_leaves_the_chunk_framing_to_the_test(worker: FaultWorker, client: Client) -> None:
    worker.script(Stream([b"2\r", b"\nhi\r\n0\r\n\r", b"\n"], framing="raw"))
    client.post(STREAM, headers="Connection: close\r\n")
    assert "transfer-encoding: chunked" in await client.head()
    assert await client.until_closed() == b"2\r\nhi\r\n0\r\n\r\n"


async def test_a_stream_framed_by_close_has_no_framing_at_all(worker: FaultWorker, client: Client) -> None:
    worker.script(Stream([b"data: a\n\n"], framing="close"))
    client.post(STREAM)
    assert "transfer-encoding" not in await client.head()
    assert await client.until_closed() == b"data: a\n\n"


async def test_a_client_that_does_not_read_holds_the_stream_up(worker: FaultWorker, client: Client) -> None:
    megabytes = iter([b"x" * 1_000_000] * 100)
    worker.script(Stream(megabytes), Status(200))
    client.post(STREAM)
    await client.head()
    other = await Client.to(worker)
    other.post()
    await other.answer()
    await other.leave()
    assert next(megabytes, None) is not None


async def test_an_idle_connection_is_closed_at_once_after_a_whole_answer(worker: FaultWorker, client: Client) -> None:
    worker.script(CloseIdleKeepAlive("at once"))
    client.post()
    head, body = await client.answer()
    assert "connection: close" not in head
    assert json.loads(body)["port"] == worker.port
    assert await client.until_closed() == b""


async def test_a_reused_connection_is_closed_as_the_next_request_arrives(worker: FaultWorker, client: Client) -> None:
    worker.script(CloseIdleKeepAlive(), Status(503))
    client.post()
    assert (await client.answer())[0].split()[1] == "200"
    client.post()
    assert await client.until_closed() == b""
    assert (len(worker.requests), worker.aborts) == (1, 0)


async def test_a_reused_connection_can_be_reset_as_the_next_request_arrives(
    worker: FaultWorker, client: Client
) -> None:
    worker.script(CloseIdleKeepAlive(how="reset"))
    client.post()
    await client.answer()
    client.post()
    with pytest.raises(ConnectionResetError):
        await client.until_closed()


async def test_a_stopped_worker_refuses_and_its_port_can_be_taken_again() -> None:
    worker = await FaultWorker.start()
    client = await Client.to(worker)
    await worker.until(lambda: worker.connections == 1)
    await worker.stop()
    with pytest.raises(ConnectionResetError):
        await client.until_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", worker.port)
    again = await FaultWorker.start(worker.port)
    await again.stop()


@pytest.mark.parametrize("behaviour", [Hang(), Stream([b"x" * 20_000_000])])
async def test_stopping_cuts_an_unfinished_answer_and_blames_nobody(behaviour: Hang | Stream) -> None:
    worker = await FaultWorker.start()
    worker.script(behaviour)
    client = await Client.to(worker)
    client.post()
    await worker.until(lambda: len(worker.requests) == 1)
    await worker.stop()
    with pytest.raises(ConnectionResetError):
        await client.until_closed()
    assert (worker.open_connections, worker.aborts) == (0, 0)


async def test_the_command_prints_its_port_and_ends_on_sigterm() -> None:
    command = (sys.executable, "-m", "tests.e2e.fault_worker", "--port", "0")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        client.post()
        assert json.loads((await client.answer())[1])["port"] == port
        client.writer.close()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
