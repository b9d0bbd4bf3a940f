"""One publishes 720p at 30 frames per second and a tone; another one, in the room before, gets every frame, sees their
numbers rise, and hears the pitch."""

import asyncio

from media import FPS, PITCH_HZ, Camera, Listener, Microphone, Viewer, arrived
from session import Member, new_room_name, run, say, until

SECONDS = 10
# Sent, and still on the way or not yet in the statistics, at either end of the measurement.
UNDER_WAY = 6


async def scenario():
    room = new_room_name("watch")
    bob = await Member("bob").join(room)
    alice = await Member("alice").join(room)
    await bob.hears("participant_connected", lambda who: who.identity == "alice")

    camera, microphone = Camera(), Microphone()
    published = await camera.publish(alice)
    await microphone.publish(alice)
    video, publication, who = await bob.hears("track_subscribed", lambda t, *_: t.kind == 2)
    assert publication.sid == published.sid and who.identity == "alice", (publication.sid, published.sid)
    audio, _, _ = await bob.hears("track_subscribed", lambda t, *_: t.kind == 1)
    await alice.hears("local_track_subscribed", lambda t: t.sid == published.sid)
    viewer, listener = Viewer(video), Listener(audio)

    await until(lambda: viewer.size == (1280, 720) and viewer.numbers, "a readable frame of 1280x720 arrives")
    await asyncio.sleep(2)
    seen, captured, sent = len(viewer.numbers), camera.number, await camera.frames_sent()
    unreadable = viewer.unreadable
    whole, lost = await arrived(video)
    await asyncio.sleep(SECONDS)
    numbers = viewer.numbers[seen:]
    captured, sent = camera.number - captured, await camera.frames_sent() - sent
    now_whole, now_lost = await arrived(video)
    whole, lost = now_whole - whole, now_lost - lost
    say(f"captured {captured}, sent {sent}, {whole} came whole, {lost} packets lost, seen {len(numbers)} frames in "
        f"{SECONDS} s, size {viewer.size}, {viewer.unreadable - unreadable} unreadable")

    backwards = [pair for pair in zip(numbers, numbers[1:]) if pair[1] <= pair[0]]
    assert not backwards, f"frames out of order: {backwards[:5]}"
    assert camera.number - numbers[-1] < FPS, f"a second behind: {camera.number} captured, {numbers[-1]} seen"
    assert whole >= sent - UNDER_WAY and lost <= 0, f"{whole} of {sent} frames came whole, {lost} packets are lost"
    # All that were sent came whole. How many of them a client makes and shows is a matter of its processor.
    assert sent >= 5 * SECONDS, f"this machine encodes only {sent} frames in {SECONDS} s"
    assert len(numbers) >= sent / 2, f"{len(numbers)} of {sent} sent frames were shown"
    assert viewer.size == (1280, 720), f"the picture ended as {viewer.size}"

    pitch = listener.pitch_hz(5)
    say(f"pitch {pitch:.1f} Hz")
    assert abs(pitch - PITCH_HZ) < PITCH_HZ * 0.02, f"{pitch:.1f} Hz heard, {PITCH_HZ} Hz played"
    await bob.hears("active_speakers_changed", lambda speakers: any(s.identity == "alice" for s in speakers))
    await alice.leave()
    await bob.leave()


run(scenario())
