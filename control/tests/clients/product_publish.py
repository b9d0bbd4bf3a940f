"""The Python SDK as publisher and viewer of a stream: media, a killed publisher, the way back, the admin's end.

Other scripts use its roles `publisher` and `viewer STREAM USER`. Runs alone as well: PRODUCT_URL names a running product, PRODUCT_JWT_SECRET the secret of its users' tokens.
"""

import asyncio
import os
import subprocess
import sys
import time

import aiohttp
import jwt
from media import Camera, Microphone, Viewer
from session import PATIENCE_S, Member, run, say, until

BASE = os.environ.get("PRODUCT_URL", "http://127.0.0.1:7880")
SECRET = os.environ["PRODUCT_JWT_SECRET"]


def bearer(user: str, **claims) -> str:
    return jwt.encode({"sub": user, "exp": int(time.time()) + 3600, **claims}, SECRET, "HS256")


async def call(method: str, path: str, user: str | None = None, body=None, **claims):
    """Status and body of a call."""
    headers = {"Authorization": f"Bearer {bearer(user, **claims)}"} if user else {}
    async with aiohttp.ClientSession() as session:
        async with session.request(method, f"{BASE}/api{path}", headers=headers, json=body) as answer:
            return answer.status, await answer.json(content_type=None)


async def stream(stream_id: str) -> dict:
    return (await call("GET", f"/live/{stream_id}"))[1]


async def becomes(stream_id: str, what: str, wanted) -> dict:
    deadline = time.monotonic() + 2 * PATIENCE_S
    while True:
        now = await stream(stream_id)
        if wanted(now):
            return now
        assert time.monotonic() < deadline, f"{what}: {now}"
        await asyncio.sleep(0.1)


async def enter(member: Member, place: dict) -> Member:
    await asyncio.wait_for(member.room.connect(place["url"], place["token"]), PATIENCE_S)
    say(f"{member.identity}: joined as {member.room.local_participant.identity}")
    return member


async def go_live() -> tuple[dict, Member]:
    status, place = await call("POST", "/live/start", "ana", {"title": "From Python"}, name="Ana")
    assert status in (200, 201), (status, place)
    ana = await enter(Member("ana"), place)
    await Camera(640, 360).publish(ana)
    await Microphone().publish(ana)
    return place, ana


async def publisher():
    """Publishes until it is killed; says when it is back after a disruption."""
    place, ana = await go_live()
    say(f"publishes {place['streamId']}")
    mark = 0
    while True:
        await ana.hears("reconnected", since=mark, within=600)
        say("reconnected")
        mark = ana.mark()


async def viewer(stream_id: str, user: str):
    """Watches until it is killed; says each time that frames of a new track arrive."""
    status, place = await call("GET", f"/live/{stream_id}/watch", user)
    assert status == 200, place
    member = await enter(Member(user), place)
    mark = 0
    while True:
        track, *_ = await member.hears("track_subscribed", lambda track, *_: track.kind == 2, since=mark, within=600)
        mark = member.mark()
        seen = Viewer(track)
        await until(lambda: len(seen.numbers) > 20, "frames arrive")
        say("frames arrive")


async def frames_arrive(viewer: Member, since: int = 0) -> None:
    track, *_ = await viewer.hears("track_subscribed", lambda track, *_: track.kind == 2, since=since)
    seen = Viewer(track)
    await until(lambda: len(seen.numbers) > 20, "frames arrive")


async def scenario():
    process = subprocess.Popen([sys.executable, __file__, "publisher"], stdout=subprocess.PIPE, text=True)
    try:
        while "publishes " not in (line := await asyncio.to_thread(process.stdout.readline)):
            assert line, "the publisher ended"
        stream_id = line.split("publishes ")[1].strip()
        await becomes(stream_id, "live", lambda now: now["state"] == "live")

        status, place = await call("GET", f"/live/{stream_id}/watch", "bob")
        assert status == 200, place
        bob = await enter(Member("bob"), place)
        await frames_arrive(bob)
        await becomes(stream_id, "one viewer", lambda now: now["viewers"] == 1)
        # The owner's own preview is not counted.
        _, place = await call("GET", f"/live/{stream_id}/watch", "ana")
        preview = await enter(Member("preview"), place)
        await preview.leave()

        process.kill()
        now = await becomes(stream_id, "reconnecting", lambda now: now["state"] == "reconnecting")
        assert (now["isLive"], now["viewers"], now["peakViewers"]) == (True, 1, 1), now

        mark = bob.mark()
        place, ana = await go_live()
        assert (place["streamId"], place["resumed"]) == (stream_id, True), place
        await becomes(stream_id, "live again", lambda now: now["state"] == "live")
        await frames_arrive(bob, mark)

        status, ended = await call("POST", f"/live/{stream_id}/end", "root", {"reason": "a test"}, role="admin")
        assert (status, ended["stream"]["endReason"]) == (200, "ended_by_admin"), ended
        for member in (ana, bob):
            await member.hears("disconnected")
        assert (await call("GET", f"/live/{stream_id}/watch", "bob"))[0] == 410
    finally:
        process.kill()


match sys.argv[1:]:
    case ["publisher"]:
        run(publisher())
    case ["viewer", stream_id, user]:
        run(viewer(stream_id, user))
    case _:
        run(scenario())
