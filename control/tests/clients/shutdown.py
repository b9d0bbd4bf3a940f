"""The server is told to end during a session: it says so to its clients, and they do not try again."""

from media import Camera, Viewer
from session import Member, new_room_name, run, server, until


async def scenario():
    room = new_room_name("shutdown")
    bob = await Member("bob").join(room)
    alice = await Member("alice").join(room)
    camera = Camera(320, 180)
    await camera.publish(alice)
    video, _, _ = await bob.hears("track_subscribed")
    viewer = Viewer(video)
    await until(lambda: viewer.numbers, "the camera is seen")
    # Answered when the server has exited, with status 0 and within its deadline.
    await server("terminate")
    for member in (alice, bob):
        (reason,) = await member.hears("disconnected")
        assert reason == 3, f"{member.identity} was disconnected for {reason}, not for SERVER_SHUTDOWN"
        assert member.heard("reconnecting") is None, f"{member.identity} tried to come back"


run(scenario())
