"""A participant for tests of the server APIs: joins ROOM as IDENTITY, publishes a camera and reports what happens to it.

Every line on stdout after `joined` is one event: `data TOPIC TEXT`, `muted`, `disconnected REASON`.
"""

import asyncio
import sys

from livekit import rtc

from media import Camera
from session import Member, leave_at_once


async def scenario(room: str, identity: str):
    guest = Member(identity)
    guest.room.on("data_received", lambda p: print(f"data {p.topic} {p.data.decode()}", flush=True))
    guest.room.on("track_muted", lambda who, publication: print("muted", flush=True))
    ended = asyncio.Event()

    def on_disconnected(reason):
        print(f"disconnected {rtc.DisconnectReason.Name(reason)}", flush=True)
        ended.set()

    guest.room.on("disconnected", on_disconnected)
    await guest.join(room)
    await Camera(320, 180).publish(guest)
    await guest.me.set_metadata("a guest")
    print("joined", flush=True)
    await asyncio.wait_for(ended.wait(), 120)
    leave_at_once(0)


sys.argv, (room, identity) = [sys.argv[0], "v1"], sys.argv[1:3]
asyncio.run(scenario(room, identity))
