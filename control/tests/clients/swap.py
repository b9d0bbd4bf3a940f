"""Tracks that follow each other faster than they are negotiated: each is announced, and its media arrives.

swap.py MODEL other: unsubscribe one and subscribe another at once, by the SDK and by the server API; unpublish one and publish
another.
swap.py MODEL same: publish, unpublish and publish one right after joining.
"""

import asyncio
import os
import sys

from livekit import api, rtc

from media import Camera, Listener, Microphone, Viewer
from session import KEY, PATIENCE_S, SECRET, URL, Member, model, new_room_name, run, say, token, until

TRIES = int(os.environ.get("TRIES", "8"))
MICROPHONE = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)


async def choosing(identity: str, room: str) -> Member:
    """A member that is shown only what it chooses."""
    member = Member(identity)
    options = rtc.RoomOptions(auto_subscribe=False, single_peer_connection=model() == "v1")
    await asyncio.wait_for(member.room.connect(URL, token(identity, room), options), PATIENCE_S)
    return member


async def shown(member: Member, sid: str, since: int, what: str):
    """The track is announced, and its frames arrive."""
    track, _, _ = await member.hears("track_subscribed", lambda t, p, _: p.sid == sid, since=since, within=10)
    viewer = Viewer(track)
    await until(lambda: len(viewer.numbers) >= 5, f"frames of {what}")


async def swaps_subscriptions(swap, name: str):
    """Each viewer has the first camera and swaps it for the second."""
    room = new_room_name("swap")
    alice = await Member("alice").join(room)
    first, second = [(await Camera(320, 180).publish(alice)).sid for _ in range(2)]
    for number in range(TRIES):
        bob = await choosing(f"bob{number}", room)
        seen = await until(lambda: (one := bob.sees("alice")) and len(one.track_publications) == 2 and one, "both cameras")
        seen.track_publications[first].set_subscribed(True)
        await bob.hears("track_subscribed", lambda t, p, _: p.sid == first)
        mark = bob.mark()
        await swap(bob, room, first, second)
        await shown(bob, second, mark, f"the second camera, {name}, try {number}")
        await bob.leave()
    await alice.leave()


async def by_sdk(bob: Member, room: str, first: str, second: str):
    publications = bob.sees("alice").track_publications
    publications[first].set_subscribed(False)
    publications[second].set_subscribed(True)


async def by_server_api(bob: Member, room: str, first: str, second: str):
    url = URL.replace("ws", "http", 1)
    async with api.LiveKitAPI(url, KEY, SECRET) as server:
        for sid, subscribe in ((first, False), (second, True)):
            await server.room.update_subscriptions(api.UpdateSubscriptionsRequest(
                room=room, identity=bob.identity, track_sids=[sid], subscribe=subscribe))


async def swaps_publications():
    room = new_room_name("swap")
    alice, bob = await Member("alice").join(room), await Member("bob").join(room)
    published = await Camera(320, 180).publish(alice)
    await shown(bob, published.sid, 0, "the first camera")
    for number in range(TRIES):
        mark = bob.mark()
        await asyncio.wait_for(alice.me.unpublish_track(published.sid), PATIENCE_S)
        published = await asyncio.wait_for(Camera(320, 180).publish(alice), PATIENCE_S)
        await shown(bob, published.sid, mark, f"the next camera, try {number}")
    await alice.leave()
    await bob.leave()


async def publishes_again():
    room = new_room_name("again")
    bob = await Member("bob").join(room)
    for number in range(TRIES):
        mark = bob.mark()
        alice = await Member(f"alice{number}").join(room)
        microphone = Microphone()
        published = await asyncio.wait_for(microphone.publish(alice), PATIENCE_S)
        for _ in range(2):
            await asyncio.wait_for(alice.me.unpublish_track(published.sid), PATIENCE_S)
            published = await asyncio.wait_for(alice.me.publish_track(microphone.track, MICROPHONE), PATIENCE_S)
        track, _, _ = await bob.hears("track_subscribed", lambda t, p, _: p.sid == published.sid, since=mark, within=10)
        listener = Listener(track)
        await until(lambda: any(listener.samples), f"sound of the track published again, try {number}")
        await alice.leave()
    await bob.leave()


async def other():
    await swaps_subscriptions(by_sdk, "by the SDK")
    say("swaps by the SDK: all")
    await swaps_subscriptions(by_server_api, "by the server API")
    say("swaps by the server API: all")
    await swaps_publications()
    say("swapped publications: all")


run({"other": other, "same": publishes_again}[sys.argv[2]]())
