"""/v1/files: forms as clients send them, whole and damaged, over a real socket."""

import socket
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mosso.api.batches_store import PIECE
from mosso.core.errors import RequestError
from mosso.server.batch_store import SqliteBatchStore
from mosso.server.uploads import FormReader, read_form


def upload(server, content=b"{}", **fields):
    return server.http.post(
        "/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"} | fields
    )


def error(answer, status=400):
    assert answer.status_code == status
    return answer.json()["error"]


@pytest.fixture(scope="module")
def files(server):
    """The shared server; its files are few."""
    return server


def test_a_large_file_comes_back_as_it_went(files):
    content = bytes(range(256)) * (PIECE // 64)  # some pieces, with all that a boundary is made of
    made = upload(files, content).json()
    assert made["bytes"] == len(content)
    assert made["filename"] == "in.jsonl"
    assert made["expires_at"] == made["created_at"] + 30 * 86400
    back = files.http.get(f"/v1/files/{made['id']}/content")
    assert back.content == content
    assert back.headers["content-length"] == str(len(content))


def test_the_purpose_may_come_behind_the_file(files):
    parts = [("file", ("a", b"{}")), ("purpose", (None, "batch"))]
    assert files.http.post("/v1/files", files=parts).status_code == 200


def test_expiry_by_the_sdk(files):
    made = files.client.files.create(
        file=("a", b""), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert made.expires_at == made.created_at + 7200
    assert made.bytes == 0


def test_what_is_wrong_is_named(files):
    for fields, param in (
        ({"purpose": "assistants"}, "purpose"),
        ({"expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "1"}, "expires_after[anchor]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "1"}, "expires_after[seconds]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "x"}, "expires_after[seconds]"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "7200"}, "expires_after[anchor]"),
        ({"more": "1"}, "more"),
        ({"purpose": b"\xff"}, "purpose"),
        ({"purpose": "x" * (1 << 17)}, "purpose"),
    ):
        assert error(upload(files, **fields))["param"] == param, fields
    post = files.http.post
    assert error(post("/v1/files", json={}))["message"] == "The request body must be multipart/form-data."
    assert error(post("/v1/files", files={"file": ("a", b"")}))["param"] == "purpose"
    assert error(post("/v1/files", files={"purpose": (None, "batch")}))["param"] == "file"
    assert error(post("/v1/files", files={"other": ("a", b"")}))["param"] == "other"
    two = [("file", ("a", b"1")), ("file", ("b", b"2"))]
    assert error(post("/v1/files", files=two))["param"] == "file"
    many = {f"f{number}": (None, "") for number in range(40)}
    assert "too many" in error(post("/v1/files", files=many))["message"]


def test_damaged_forms_are_refused(files):
    head = {"content-type": "multipart/form-data; boundary=B"}
    for body in (
        b"",
        b"nothing",
        b"--B\r\n\r\nx\r\n--B--\r\n",
        b'--B\r\nContent-Disposition: form-data; name="a"',
    ):
        assert error(files.http.post("/v1/files", content=body, headers=head))["code"] == "invalid_form"
    for kind in ("multipart/form-data", f"multipart/form-data; boundary={'B' * 500}"):
        error(files.http.post("/v1/files", content=b"x", headers={"content-type": kind}))


def test_unknown_files(files):
    assert error(files.http.get("/v1/files/none"), 404)["code"] == "file_not_found"
    assert error(files.http.delete("/v1/files/none"), 404)["param"] == "file_id"
    assert error(files.http.get("/v1/files?after=none"), 404)["param"] == "after"
    assert error(files.http.get("/v1/files?limit=0"))["param"] == "limit"


@pytest.fixture
def small(serve):
    """A server that keeps two files, and not many bytes."""
    store = SqliteBatchStore(max_files=2, max_bytes=1000, now=lambda: 1000.0)
    yield serve(batch_store=store), store
    store.close()


async def count(store, table):
    return (await store._do(lambda: store._rows(f"SELECT count(*) FROM {table}")))[0][0]


async def test_limits_of_number_and_size(small):
    server, store = small
    assert error(upload(server, b"x" * 1001))["code"] == "storage_limit_exceeded"
    first = upload(server, b"x" * 600).json()["id"]
    assert error(upload(server, b"x" * 600))["code"] == "storage_limit_exceeded"
    upload(server, b"x")
    assert error(upload(server, b"x"))["code"] == "too_many_files"
    assert await count(store, "pieces") == 2
    server.http.delete(f"/v1/files/{first}")
    assert upload(server, b"x" * 600).status_code == 200


async def test_who_hangs_up_leaves_nothing(small, soon):
    server, store = small
    with socket.create_connection(server.address) as sock:
        sock.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n"
            b"Content-Type: multipart/form-data; boundary=B\r\n\r\n"
            b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 3 * PIECE
        )
        while not await count(store, "pieces"):
            pass
    while await count(store, "pieces"):
        pass
    assert list(server.client.files.list()) == []


async def test_a_full_disk_is_told(small):
    server, store = small
    ((pages,),) = await store._do(lambda: store._rows("PRAGMA page_count"))
    await store._do(lambda: store._rows(f"PRAGMA max_page_count = {pages + 1}"))
    answer = upload(server, b"x" * 100_000)
    assert "full" in error(answer, 500)["message"]
    assert await count(store, "pieces") == 0
    await store._do(lambda: store._rows("PRAGMA max_page_count = 1000000"))
    assert upload(server, b"x").status_code == 200


class Sink:
    def __init__(self):
        self.data = b""

    async def write(self, data):
        self.data += data


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200), sizes=st.lists(st.integers(1, 60), min_size=1), cut=st.integers(0, 400)
)
async def test_forms_in_any_pieces(content, sizes, cut):
    form = (
        b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + content
        + b"\r\n--B--\r\n"
    )

    async def pieces(whole):
        place, number = 0, 0
        while place < len(whole):
            size = sizes[number % len(sizes)]
            yield whole[place : place + size]
            place, number = place + size, number + 1

    sink = Sink()
    if b"\r\n--B" not in content:
        form_read = await read_form("multipart/form-data; boundary=B", pieces(form), sink)
        assert form_read.fields == {"purpose": "batch"}
        assert sink.data == content
    try:
        await read_form("multipart/form-data; boundary=B", pieces(form[:cut]), Sink())
    except RequestError:
        pass
    else:
        assert cut >= len(form) - 4 or b"\r\n--B" in content


@given(st.binary(max_size=300))
def test_strangers_bytes_are_a_form_or_refused(data):
    reader = FormReader("multipart/form-data; boundary=B")
    with suppress(RequestError):
        reader.feed(b"--B\r\n" + data)
