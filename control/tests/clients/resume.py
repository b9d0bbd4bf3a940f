"""The signal sockets of a subscriber, then of a publisher, are cut: both resume, sids stay and the picture goes on."""

import asyncio

from cuttable_proxy import CuttableProxy
from media import Camera, Viewer
from session import URL, Member, model, new_room_name, run, say, until


async def scenario():
    room = new_room_name("resume")
    proxies = {"alice": CuttableProxy(URL), "bob": CuttableProxy(URL)}
    urls = {name: await proxy.start() for name, proxy in proxies.items()}
    alice = await Member("alice").join(room, urls["alice"])
    bob = await Member("bob").join(room, urls["bob"])
    camera = Camera(640, 360)
    published = await camera.publish(alice)
    video, _, _ = await bob.hears("track_subscribed")
    viewer = Viewer(video)
    await until(lambda: len(viewer.numbers) > 30, "the camera is seen")

    wanted = {"v0": "/rtc", "v1": "/rtc/v1"}[model()]
    assert all(wanted in proxy.paths for proxy in proxies.values()), [proxy.paths for proxy in proxies.values()]
    sids = {"alice": alice.me.sid, "bob": bob.me.sid}
    for member, other in ((bob, alice), (alice, bob)):
        marks = {m: m.mark() for m in (alice, bob)}
        proxies[member.identity].cut()
        await member.hears("reconnecting", since=marks[member])
        await member.hears("reconnected", since=marks[member], within=30)
        assert member.me.sid == sids[member.identity], f"{member.identity} came back as {member.me.sid}"
        assert other.sees(member.identity).sid == sids[member.identity]
        assert member.sees(other.identity).sid == sids[other.identity]
        assert other.heard("participant_disconnected", since=marks[other]) is None, "the other one noticed"
        assert member.heard("participant_disconnected", since=marks[member]) is None, "it lost the other one"
        before = camera.number
        await until(lambda: viewer.numbers[-1] > before + 30, f"frames taken after {member.identity}'s resume arrive")
        say(f"{member.identity} resumed")

    assert alice.me.track_publications[published.sid].sid == published.sid
    mark = bob.mark()
    await alice.me.publish_data(b"still here", topic="after")
    await bob.hears("data_received", lambda packet: packet.topic == "after", since=mark)
    mark = bob.mark()
    second = Camera(320, 180)
    await second.publish(alice, source=2)
    video, _, _ = await bob.hears("track_subscribed", since=mark)
    viewer = Viewer(video)
    await until(lambda: len(viewer.numbers) > 10, "a track published after the resume is seen")
    await alice.leave()
    await bob.hears("participant_disconnected", since=mark)
    await bob.leave()


run(scenario())
