"""What is no honest request gets its status, and nothing of it is computed."""

from __future__ import annotations

import json
import socket
import struct

import httpx
import pytest

from tests.serving.tiny import ANSWER, MOST, QUESTION, busy, post, serving, wait_until_idle

PROMPT = f"Question: {QUESTION}\nAnswer:"
JSON = {"Content-Type": "application/json"}


def raw(server, head: str, body: bytes = b"") -> bytes:
    """The answer to bytes that no client would send."""
    with socket.create_connection(("127.0.0.1", server.port), 20) as link:
        link.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        found = b""
        while part := link.recv(65536):
            found += part
        return found


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"model": NaN}',
        b"\xff\xfe{}",
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 20_000,
    ],
    ids=lambda body: repr(body[:12]),
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/api/ask"])
def test_malformed_json_is_refused(server, path, body):
    found = httpx.post(server.url + path, content=body, headers=JSON, timeout=30)
    assert found.status_code == 400
    assert found.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_that_a_form_can_send_is_refused(server, kind):
    body = json.dumps({"model": "base", "prompt": "a"})
    found = httpx.post(server.url + "/v1/completions", content=body, headers={"Content-Type": kind})
    assert found.status_code == 415


def test_ten_megabytes_are_refused_with_and_without_a_length(server):
    body = json.dumps({"model": "base", "prompt": "a " * 5_000_000}).encode()
    assert len(body) > 10_000_000

    def chunks():
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    for content in (body, chunks()):
        found = httpx.post(
            server.url + "/v1/completions", content=content, headers=JSON, timeout=60
        )
        assert found.status_code == 413 and "1000000 bytes" in found.json()["error"]["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page.js/../../serving/config.py",
        "/page/page.js",
        "//etc/passwd",
        "/page.js%00.html",
        "/v1/../taught.json",
        "/taught.json",
        "/v1/models/..%2f..%2ftaught.json",
        "/v1/models/base%2Bnothing",
        "/nothing",
        "/v1/",
        "/v1/models/",
    ],
)
def test_paths_that_lead_nowhere_are_not_found(server, path):
    found = raw(server, f"GET {path} HTTP/1.1\nHost: localhost\nConnection: close")
    assert status_of(found) == 404, found
    assert b"root:" not in found and b"import " not in found


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /v1/completions HTTP/1.1\nHost: localhost", 405),
        ("DELETE /v1/models HTTP/1.1\nHost: localhost", 405),
        ("GET / HTTP/1.1\nHost: evil.example", 403),
        ("GET /v1/models HTTP/1.1\nHost: localhost\nOrigin: http://evil.example", 403),
        ("GET /v1/models HTTP/1.1\nHost: localhost\nOrigin: null", 403),
        ("GET /v1/models HTTP/1.1\nHost: [::1", 403),
        ("GET /v1/models HTTP/1.1", 400),  # without a host
        ("NONSENSE", 400),
        ("POST /v1/completions HTTP/1.1\nHost: localhost\nContent-Length: -5", 400),
        ("GET /v1/models HTTP/1.1\nHost: localhost\nOrigin: http://localhost", 200),
    ],
    ids=lambda value: str(value)[:60],
)
def test_odd_requests_get_their_status(server, request_line, status):
    assert status_of(raw(server, f"{request_line}\nConnection: close")) == status


def test_headers_without_an_end_are_cut_off(server):
    try:
        found = raw(server, "GET /v1/models HTTP/1.1\nHost: localhost\nX: " + "a" * 1_000_000)
    except ConnectionError:
        return  # closed while more was on its way
    assert status_of(found) == 400


def test_the_page_may_run_nothing_but_its_own(server):
    found = httpx.get(server.url + "/")
    assert found.status_code == 200
    assert "default-src 'none'; script-src 'self'" in found.headers["content-security-policy"]
    assert found.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in found.text and "style=" not in found.text


def test_a_server_with_a_token_asks_for_it(taught, monkeypatch):
    token = "0123456789abcdef"
    monkeypatch.setenv("SMF_SERVE_TOKEN", token)
    with serving(taught, host="0.0.0.0", read_only=True) as guarded:
        url = f"http://127.0.0.1:{guarded.port}"
        wrong = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {token}"}]
        wrong += [{"Authorization": f"Bearer {token}x"}, {"Authorization": f"Bearer {token[:-1]}"}]
        for path in ("/v1/models", "/api/state", "/nothing", "/tokenizer_info"):
            for headers in wrong:
                found = httpx.get(url + path, headers=headers)
                assert found.status_code == 401, (path, headers)
                assert found.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": f"Bearer {token}"}
        assert httpx.get(url + "/v1/models", headers=right).status_code == 200
        # By whatever name other machines know it; the page itself holds nothing of the model.
        named = {**right, "Host": "model.example"}
        assert httpx.get(url + "/v1/models", headers=named).status_code == 200
        assert httpx.get(url + "/page.js").status_code == 200


def hang_up(server, stream: bool, answered: bool) -> None:
    body = json.dumps(
        {"model": "taught", "prompt": PROMPT, "max_tokens": 32, "stream": stream, "temperature": 5}
    )
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    link = socket.create_connection(("127.0.0.1", server.port), 20)
    # A reset, and no orderly end.
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
    if answered:
        assert link.recv(100)
    link.close()


def test_early_hang_ups_harm_nobody(server):
    for stream, answered in [(True, True), (True, False), (False, False)] * 5:
        hang_up(server, stream, answered)
    with socket.create_connection(("127.0.0.1", server.port), 20) as link:  # half a body
        link.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n")
        link.sendall(b"Content-Type: application/json\r\n\r\n{")
    wait_until_idle(server)
    found = post(server, "/v1/completions", model="taught", prompt=PROMPT, max_tokens=6)
    assert found.json()["choices"][0]["text"].strip() == ANSWER


def test_more_than_can_wait_is_told_to_come_back(server):
    many = ["a"] * (MOST + 1)
    for prompts in (many, [[5]] * (MOST + 1)):
        refused = post(server, "/v1/completions", model="base", prompt=prompts, max_tokens=1)
        assert (
            refused.status_code == 400 and f"at most {MOST}" in refused.json()["error"]["message"]
        )
    with busy(server):
        full = post(server, "/v1/completions", model="base", prompt="a", max_tokens=1)
        assert (full.status_code, full.headers["retry-after"]) == (429, "1")
        assert full.json()["error"]["type"] == "rate_limit_error"
        assert httpx.get(server.url + "/v1/models").status_code == 200
    found = post(server, "/v1/completions", model="base", prompt="a", max_tokens=1)
    assert found.status_code == 200
