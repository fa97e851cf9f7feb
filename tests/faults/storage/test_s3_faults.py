"""S3 servers that fail, are down or get bytes wrong, and workers that are killed: nothing wrong is delivered."""

from __future__ import annotations

import logging
import random
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openmsi_streams.chunks.messages import Delivery
from openmsi_streams.config.settings import MIB
from openmsi_streams.embedded import EmbeddedS3
from openmsi_streams.errors import StoreError
from openmsi_streams.storage import StoreUnavailable, Verified, s3client
from openmsi_streams.storage.s3 import S3Store
from openmsi_streams.storage.s3client import Rejected
from tests.support.programs import spawn
from tests.support.s3_proxy import Request, S3Proxy
from tests.support.stores import arrived, new_topic, s3_settings, verified
from tests.support.waiting import wait_until

pytestmark = pytest.mark.broker


@pytest.fixture
def proxy(s3: EmbeddedS3) -> Iterator[S3Proxy]:
    with S3Proxy(s3.endpoint) as one:
        yield one


@pytest.fixture
def behind(s3: EmbeddedS3, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """A store that reaches the server through the proxy and gives a call up after two tries."""
    monkeypatch.setattr(s3client, "_TRIES", 2)
    store = S3Store("main", _through(s3, proxy))
    yield store
    store.close()


def _through(s3: EmbeddedS3, proxy: S3Proxy, **more: Any) -> Any:
    return msgspec.structs.replace(s3_settings(s3), endpoint=proxy.endpoint, **more)


def as_the_engine_does(call: Callable[[], Delivery], tries: int = 40) -> Delivery:
    """Call again for as long as the store says that it may work later."""
    for _ in range(tries):
        try:
            return call()
        except StoreUnavailable as error:
            last = error
    raise AssertionError(f"not delivered after {tries} tries: {last}")


def directly(s3: EmbeddedS3, store: S3Store) -> S3Store:
    return S3Store("direct", msgspec.structs.replace(store.settings, endpoint=s3.endpoint))


@pytest.mark.faults
def test_a_server_that_fails_every_fifth_call_gets_every_file(
    s3: EmbeddedS3, proxy: S3Proxy, behind: S3Store, tmp_path: Path
) -> None:
    topic = new_topic()
    rng = random.Random(5)
    files = [verified(tmp_path, f"s/{number}.dat", rng.randrange(20_000), topic) for number in range(30)]
    files += [verified(tmp_path, f"large/{number}.dat", 11 * MIB + number, topic) for number in range(3)]
    proxy.fail_rate = 0.2

    def deliver(file: Verified) -> Delivery:
        if file.size < 10 * MIB:
            return as_the_engine_does(lambda: behind.put(file))
        state = None
        for reached in range(6 * MIB, file.size + 5 * MIB, 5 * MIB):
            try:
                if state is None:
                    state = behind.begin(file.file_id, topic, file.relative, file.sha512, None)
                state = behind.advance(state, file.path, arrived(0, min(reached, file.size)), None)
            except StoreError:
                continue
        return as_the_engine_does(lambda: behind.complete(state, file) if state is not None else behind.put(file))

    with ThreadPoolExecutor(4) as pool:
        deliveries = list(pool.map(deliver, files))
    assert [one.sha512 for one in deliveries] == [file.sha512 for file in files]
    assert proxy.failed > 10
    direct = directly(s3, behind)
    for file in files:
        assert direct.verify(topic, file.relative, file.sha512, file.size, deep=True) == ""
    assert len(list(direct.list(topic))) == len(files)
    direct.close()


def test_a_server_that_is_down_gets_the_files_when_it_is_back(
    s3: EmbeddedS3, proxy: S3Proxy, behind: S3Store, tmp_path: Path
) -> None:
    topic = new_topic()
    small, large = verified(tmp_path, "a", 1000, topic), verified(tmp_path, "b", 11 * MIB, topic)
    state = behind.begin(large.file_id, topic, "b", large.sha512, None)
    state = behind.advance(state, large.path, arrived(0, 6 * MIB), None)
    proxy.down = True
    for call in (lambda: behind.put(small), lambda: behind.complete(state, large), behind.check):
        with pytest.raises(StoreUnavailable, match="Check that it runs") as caught:
            call()  # type: ignore[no-untyped-call]
        assert caught.value.retry_after > 0
    proxy.down = False
    sent = proxy.count(lambda request: request.is_part)
    behind.put(small)
    behind.complete(state, large)
    assert proxy.count(lambda request: request.is_part) == sent + 2, "the part from before is not sent again"
    for file in (small, large):
        assert behind.verify(topic, file.relative, file.sha512, file.size, deep=True) == ""


def _flipped(request: Request) -> bytes:
    if request.method != "PUT" or not request.body:
        return request.body
    return request.body[:-1] + bytes([request.body[-1] ^ 1])


@pytest.mark.parametrize("fault", ["stores wrong bytes", "states a wrong checksum"])
@pytest.mark.parametrize("how", ["put", "parts", "beside"])
def test_what_a_server_got_wrong_is_never_called_delivered(
    s3: EmbeddedS3, proxy: S3Proxy, behind: S3Store, tmp_path: Path, fault: str, how: str
) -> None:
    topic = new_topic()
    file = verified(tmp_path, "a.dat", 11 * MIB if how == "parts" else 5000, topic)

    def deliver() -> Delivery:
        if how == "beside":
            return behind.put_beside(file, "a.dat.json", b"{}", "application/json")
        if how == "put":
            return behind.put(file)
        state = behind.begin(file.file_id, topic, file.relative, file.sha512, None)
        return behind.complete(state, file)

    if fault == "stores wrong bytes":
        proxy.change_body = _flipped
    else:
        proxy.change_etag = lambda request, etag: "0" * 32 + etag[32:] if request.method == "PUT" else etag
    for _ in range(2):
        with pytest.raises(Rejected):
            deliver()
    direct = directly(s3, behind)
    assert [
        one for one in direct.list(topic) if direct.read_back(direct.keys.key(topic, one.path)) != file.sha512
    ] == []
    proxy.change_body = proxy.change_etag = None
    assert deliver().bytes > 0
    if how != "beside":
        assert direct.verify(topic, "a.dat", file.sha512, file.size, deep=True) == ""
    direct.close()


def test_a_wrong_object_left_by_a_killed_worker_is_not_taken_for_the_file(
    s3: EmbeddedS3, behind: S3Store, tmp_path: Path
) -> None:
    topic = new_topic()
    file = verified(tmp_path, "a.dat", 5000, topic)
    behind.client.put_object(
        Bucket=behind.settings.bucket,
        Key=behind.keys.key(topic, "a.dat"),
        Body=b"x" * 5000,
        Metadata=behind.metadata(file.file_id, topic, file.sha512, None, ""),
    )
    behind.put(file)
    assert behind.verify(topic, "a.dat", file.sha512, file.size, deep=True) == ""


@pytest.mark.parametrize(
    ("status", "code", "cure"),
    [
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "AccessDenied", "s3:PutObject"),
        (403, "SignatureDoesNotMatch", "secret_access_key"),
        (400, "ExpiredToken", "session_token"),
        (404, "NoSuchBucket", "Create the bucket"),
        (503, "SlowDown", "overloaded"),
        (507, "QuotaExceeded", "full"),
        (500, "InternalError", "fault"),
        (301, "PermanentRedirect", "region"),
        (418, "Unheard", "log"),
    ],
)
def test_what_a_person_has_to_mend_is_said_and_the_file_waits(
    proxy: S3Proxy, behind: S3Store, tmp_path: Path, status: int, code: str, cure: str
) -> None:
    file = verified(tmp_path, "a", 10)
    proxy.answer = lambda request: (status, code) if request.is_put else None
    with pytest.raises(StoreUnavailable, match=cure) as caught:
        behind.put(file)
    assert caught.value.retry_after > 0
    proxy.answer = None
    assert behind.put(file).bytes == 10


@pytest.mark.parametrize(
    ("status", "code"), [(400, "InvalidObjectName"), (400, "KeyTooLongError"), (400, "EntityTooLarge")]
)
def test_a_name_or_size_that_the_server_refuses_is_no_reason_to_wait(
    proxy: S3Proxy, behind: S3Store, tmp_path: Path, status: int, code: str
) -> None:
    proxy.answer = lambda request: (status, code) if request.is_put else None
    with pytest.raises(StoreError) as caught:
        behind.put(verified(tmp_path, "a", 10))
    assert not isinstance(caught.value, StoreUnavailable)


def test_secrets_are_in_no_log_line_and_no_error(
    s3: EmbeddedS3, proxy: S3Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3client, "_TRIES", 2)
    settings = _through(s3, proxy)
    store = S3Store("main", settings)
    texts = [repr(store), repr(settings), repr({"main": settings})]
    with caplog.at_level(logging.DEBUG):
        for size in (100, 6 * MIB):
            file = verified(tmp_path, f"{size}", size)
            for answer in ((403, "SignatureDoesNotMatch"), (500, "InternalError"), None):
                proxy.answer = lambda request, answer=answer: answer
                try:
                    store.put(file)
                except StoreError as error:
                    texts += [str(error), repr(error)]
    texts.append(caplog.text)
    for secret in (settings.secret_access_key, "Signature=", "Authorization"):
        assert secret not in "\n".join(texts)
    assert any("credentials" in text for text in texts)
    store.close()


SENDER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    import msgspec
    from openmsi_streams.config.settings import S3Settings
    from openmsi_streams.errors import StoreError
    from openmsi_streams.storage import Verified
    from openmsi_streams.storage.s3 import S3Store

    settings = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=S3Settings)
    file = msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=Verified, dec_hook=lambda kind, text: Path(text))
    row = Path(sys.argv[3])
    store = S3Store("main", settings)

    def keep(state):
        part = row.with_suffix(".new")
        part.write_bytes(store.dump_state(state))
        part.replace(row)

    if not row.exists():
        keep(store.begin(file.file_id, file.topic, file.relative, file.sha512, None))
    state = store.load_state(row.read_bytes())
    for reached in range(0, file.size, 10 << 20):
        try:
            state = store.advance(state, file.path, lambda: (0, reached) if reached else (), None)
        except StoreError:
            # Killed after completion: the upload is gone and the object is there.
            break
        keep(state)
    print(store.complete(state, file).sha512, flush=True)
    """
)


@pytest.mark.faults
def test_a_worker_killed_five_times_sends_again_only_what_was_in_flight(
    s3: EmbeddedS3, proxy: S3Proxy, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    topic = new_topic()
    settings = _through(s3, proxy, orphan_hours=1e-9)
    file = verified(tmp_path, "big.dat", 100 * MIB + 7, topic)
    (tmp_path / "settings").write_bytes(msgspec.json.encode(settings))
    (tmp_path / "file").write_bytes(msgspec.json.encode(file, enc_hook=str))
    (tmp_path / "sender.py").write_text(SENDER)
    command = [sys.executable, tmp_path / "sender.py", tmp_path / "settings", tmp_path / "file", tmp_path / "row"]
    parts = 20 + 1

    def sent() -> int:
        return proxy.count(lambda request: request.is_part)

    kills = 5
    for number in range(kills):
        goal = (number + 1) * parts // (kills + 2)
        with spawn(*command) as program:
            wait_until(lambda: sent() >= goal, 60.0, f"{goal} parts are sent", lambda: program.text)  # noqa: B023
            program.signal(signal.SIGKILL)
            program.wait(30.0)
    with spawn(*command) as program:
        assert program.wait(60.0) == 0, program.text
        assert file.sha512 in program.text
    store = S3Store("main", settings)
    needed = store.load_state((tmp_path / "row").read_bytes()).plan.count(file.size)
    again = sent() - needed
    print(f"{needed} parts, {again} sent again in {kills} kills")
    record_property("parts_sent_again", again)
    assert again <= kills * settings.parallel
    assert store.verify(topic, "big.dat", file.sha512, file.size, deep=True) == ""
    assert [one.path for one in store.list(topic)] == ["big.dat"]
    store.sweep((), [topic])
    found = store.client.list_multipart_uploads(Bucket=settings.bucket).get("Uploads", [])
    assert [upload for upload in found if upload["Key"].startswith(topic)] == []
    store.close()


@pytest.mark.faults
def test_a_slow_server_does_not_hold_up_another_store(s3: EmbeddedS3, proxy: S3Proxy, tmp_path: Path) -> None:
    """Two stores share nothing: while one waits for an answer, files go to the other."""
    slow, quick = S3Store("slow", _through(s3, proxy)), S3Store("quick", s3_settings(s3))
    file = verified(tmp_path, "a", 1000)
    gate: list[bool] = []

    def wait(request: Request) -> None:
        # Runs in the proxy's own loop: nothing goes through it until the gate opens.
        wait_until(lambda: bool(gate), 60.0, "the gate opens")

    proxy.answer = wait
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(slow.put, file)
        started = time.monotonic()
        quick.put(file)
        assert not waiting.done(), f"{time.monotonic() - started:.1f} s"
        gate.append(True)
        proxy.answer = None
        assert waiting.result(60.0).store == "slow"
    slow.close()
    quick.close()


@pytest.mark.parametrize("size", [1000, 11 * MIB])
def test_what_another_worker_wrote_meanwhile_is_not_replaced(
    s3: EmbeddedS3, proxy: S3Proxy, behind: S3Store, tmp_path: Path, size: int
) -> None:
    """The server refuses the conditional write; the engine then decides anew which version is the newer one."""
    topic = new_topic()
    file = verified(tmp_path, "a.dat", size, topic)
    other = directly(s3, behind)
    other.put(verified(tmp_path, "a.dat", b"first", topic))

    def writes(request: Request) -> bool:
        return request.is_put or (request.method == "POST" and "uploadId=" in request.target)

    def refuse(request: Request) -> tuple[int, str] | None:
        if not writes(request):
            return None
        other.put(verified(tmp_path, "a.dat", b"the newest", topic))
        return 412, "PreconditionFailed"

    proxy.answer = refuse
    with pytest.raises(s3client.Conflict):
        behind.put(file)
    assert behind.conditional
    assert proxy.count(writes) == 1
    other.close()


@pytest.mark.parametrize("size", [1000, 11 * MIB])
@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (412, "PreconditionFailed")])
def test_a_server_without_conditional_writes_is_written_to_without(
    proxy: S3Proxy, behind: S3Store, tmp_path: Path, size: int, status: int, code: str
) -> None:
    file = verified(tmp_path, "a.dat", size)
    proxy.answer = lambda request: (status, code) if "if-none-match" in request.headers else None
    behind.put(file)
    assert not behind.conditional
    assert behind.verify(file.topic, "a.dat", file.sha512, size, deep=True) == ""


def test_a_read_that_breaks_off_goes_on_where_it_was(proxy: S3Proxy, behind: S3Store, tmp_path: Path) -> None:
    file = verified(tmp_path, "a.dat", 4 * MIB)
    behind.put(file)
    ranges: list[str] = []

    def cut(request: Request) -> bool:
        if request.method == "GET":
            ranges.append(request.headers.get("range", ""))
        return request.method == "GET" and len(ranges) <= 3

    proxy.cut = cut
    assert behind.fetch(file, tmp_path / "back") == file.size
    assert (tmp_path / "back").read_bytes() == file.path.read_bytes()
    starts = [int(one.removeprefix("bytes=").rstrip("-") or 0) for one in ranges]
    assert len(starts) == 4
    assert starts == sorted(starts) and starts[0] == 0 and starts[-1] > 3 * MIB


def test_a_read_of_a_server_that_goes_down_is_given_up_and_leaves_nothing(
    proxy: S3Proxy, behind: S3Store, tmp_path: Path
) -> None:
    file = verified(tmp_path, "a.dat", 4 * MIB)
    behind.put(file)
    proxy.cut = lambda request: request.method == "GET" and not setattr(proxy, "down", True)
    with pytest.raises(StoreUnavailable):
        behind.fetch(file, tmp_path / "out/back")
    assert list((tmp_path / "out").iterdir()) == []
