"""The server ends and is started again: publisher and subscriber come back by themselves and the picture goes on.

The second argument says how it ends: `kill` without a word, `terminate` in order (SIGTERM).
"""

import asyncio
import sys

from media import Camera, Viewer
from session import Member, new_room_name, run, say, server, until


async def scenario():
    room = new_room_name("restart")
    bob = await Member("bob").join(room)
    alice = await Member("alice").join(room)
    camera = Camera(640, 360)
    await camera.publish(alice)
    video, _, _ = await bob.hears("track_subscribed")
    viewer = Viewer(video)
    await until(lambda: len(viewer.numbers) > 30, "the camera is seen")

    marks = {m: m.mark() for m in (alice, bob)}
    sid = alice.me.sid
    await server(sys.argv[2])
    for member in (alice, bob):
        await member.hears("reconnecting", since=marks[member])
    await server("start")
    for member in (alice, bob):
        await member.hears("reconnected", since=marks[member], within=60)
    video, _, who = await bob.hears("track_subscribed", since=marks[bob], within=30)
    assert who.identity == "alice" and who.sid != sid, "a server that forgot everything cannot know this sid"
    viewer = Viewer(video)
    before = camera.number
    await until(lambda: viewer.numbers and viewer.numbers[-1] > before + 30, "frames taken after the restart arrive", 30)
    await alice.leave()
    await bob.leave()


run(scenario())
