"""How much each may ask."""

from __future__ import annotations

import asyncio

import pytest

from stride.errors import OverloadedError, RequestError
from stride.server.guard import KEY
from stride.server.limits import USAGE, Limits


async def call(limits: Limits, body=(b"{}",), key: str = "", pause: float = 0.0, method: str = "POST"):
    """One request; its (status, headers), or the error that it raised."""
    parts = list(body)
    sent = []

    async def receive():
        await asyncio.sleep(pause)
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    await limits({"type": "http", "method": method, "path": "/", KEY: key}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


def limits(app=None, **options) -> Limits:
    async def read(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})

    given = {"key_parallel": 0, "key_per_minute": 0, "body_seconds": 20.0, "max_bytes": 1000, **options}
    return Limits(app or read, **given)


def test_requests_of_one_key_in_a_minute():
    async def run():
        limited = limits(key_per_minute=2)
        assert [(await call(limited, key="a"))[0] for _ in range(2)] == [200, 200]
        status, headers = await call(limited, key="a")
        assert status == 429
        assert 50 < int(headers[b"retry-after"]) <= 60
        assert (await call(limited, key="b"))[0] == 200
        assert (await call(limited, key="a", method="GET"))[0] == 200

    asyncio.run(run())


def test_requests_of_one_key_at_a_time():
    async def run():
        may_end = asyncio.Event()

        async def wait(scope, receive, send):
            await may_end.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        limited = limits(wait, key_parallel=1)
        first = asyncio.create_task(call(limited, key="a"))
        await asyncio.sleep(0)
        assert (await call(limited, key="a"))[0] == 429
        other = asyncio.create_task(call(limited, key="b"))
        may_end.set()
        assert (await first)[0] == (await other)[0] == (await call(limited, key="a"))[0] == 200

    asyncio.run(run())


def test_choices_count_as_requests_of_their_key():
    async def run():
        async def choose(scope, receive, send):
            with scope[USAGE].more(2, "n"):
                with pytest.raises(OverloadedError, match="3 answers for this key"):
                    scope[USAGE].more(1, "n").__enter__()
                await send({"type": "http.response.start", "status": 200, "headers": []})
            with pytest.raises(RequestError, match="n asks for 4 answers") as caught, scope[USAGE].more(3, "n"):
                pass
            assert caught.value.field == "n"

        limited = limits(choose, key_parallel=3)
        for _ in range(2):
            assert (await call(limited, key="a"))[0] == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("/v1/chat/completions", {"n": 3}, "n"),
        ("/v1/completions", {"prompt": "x", "n": 3}, "n"),
        ("/completion", {"prompt": ["x", "y", "z"]}, "prompt"),
    ],
)
def test_no_request_has_more_choices_than_its_key(scripted, path, fields, named):
    client, model = scripted(key_parallel=2)
    response = client.ask(path, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == named
    assert model.asked == []
    assert client.ask(n=2).status_code == 200


def test_a_body_has_to_come_in_time():
    with pytest.raises(Exception, match="the body took longer") as caught:
        asyncio.run(call(limits(body_seconds=0.05), body=[b"x"] * 100, pause=0.01))
    assert caught.value.status_code == 408


def test_bodies_together_are_bounded_and_given_back():
    async def run():
        limited = limits(max_bytes=1000)
        for _ in range(3):
            assert (await call(limited, body=[b"x" * 900]))[0] == 200
        with pytest.raises(Exception, match="too many large requests") as caught:
            await call(limited, body=[b"x" * 600, b"x" * 600])
        assert caught.value.status_code == 503
        assert (await call(limited, body=[b"x" * 900]))[0] == 200

    asyncio.run(run())
