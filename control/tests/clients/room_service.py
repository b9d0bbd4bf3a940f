"""`livekit-api` drives the RoomService, with right and wrong grants, over a room in which two Python clients are."""

import asyncio

from livekit import api

from media import Camera
from session import KEY, SECRET, URL, Member, new_room_name, run, say


async def refused(call, *codes: str):
    """The call fails with one of the codes."""
    try:
        await asyncio.wait_for(call, 15)
    except api.TwirpError as error:
        assert error.code in codes, f"{error.code} ({error.status}, {error.message!r}), one of {codes} wanted"
        return error
    raise AssertionError(f"granted, though {codes} was wanted")


def granted(secret: str = SECRET, **grants) -> api.LiveKitAPI:
    """The API with a token of exactly these grants, where the SDK would mint one to fit each call."""
    signed = api.AccessToken(KEY, secret).with_identity("operator").with_grants(api.VideoGrants(**grants)).to_jwt()
    return api.LiveKitAPI(URL.replace("ws", "http", 1), token=signed)


async def scenario():
    name = new_room_name("service")
    other = new_room_name("other")
    unauthenticated = ("unauthenticated", "permission_denied")

    async with api.LiveKitAPI(URL.replace("ws", "http", 1), KEY, SECRET) as lk:
        room = await lk.room.create_room(
            api.CreateRoomRequest(name=name, empty_timeout=60, max_participants=5, metadata="first")
        )
        assert room.name == name and room.sid.startswith("RM_") and room.metadata == "first", room
        assert room.empty_timeout == 60 and room.max_participants == 5 and room.creation_time > 0, room
        same = await lk.room.create_room(api.CreateRoomRequest(name=name, metadata="second"))
        assert same.sid == room.sid, "creating it again gives the room that is there"
        rooms = (await lk.room.list_rooms(api.ListRoomsRequest(names=[name, other]))).rooms
        assert [r.name for r in rooms] == [name], rooms
        assert name in [r.name for r in (await lk.room.list_rooms(api.ListRoomsRequest())).rooms]
        empty = await lk.room.list_participants(api.ListParticipantsRequest(room=name))
        assert not empty.participants

        alice = await Member("alice").join(name)
        bob = await Member("bob").join(name)
        assert await alice.room.sid == room.sid, "the clients are in the room that was created"
        published = await Camera(320, 180).publish(alice)
        await bob.hears("track_subscribed")
        await alice.hears("participant_connected", lambda p: p.identity == "bob")

        listed = await lk.room.list_participants(api.ListParticipantsRequest(room=name))
        assert sorted(p.identity for p in listed.participants) == ["alice", "bob"]
        who = await lk.room.get_participant(api.RoomParticipantIdentity(room=name, identity="alice"))
        assert who.sid == alice.me.sid and who.name == "Alice" and who.state == api.ParticipantInfo.State.ACTIVE, who
        assert [t.sid for t in who.tracks] == [published.sid] and not who.tracks[0].muted, who.tracks
        assert who.permission.can_publish and who.permission.can_subscribe, who.permission

        marks = {m: m.mark() for m in (alice, bob)}
        muted = await lk.room.mute_published_track(
            api.MuteRoomTrackRequest(room=name, identity="alice", track_sid=published.sid, muted=True)
        )
        assert muted.track.sid == published.sid and muted.track.muted
        await alice.hears("track_muted", since=marks[alice])
        await bob.hears("track_muted", since=marks[bob])
        await refused(
            lk.room.mute_published_track(
                api.MuteRoomTrackRequest(room=name, identity="alice", track_sid=published.sid, muted=False)
            ),
            "failed_precondition",
        )

        send = lambda data, **to: lk.room.send_data(
            api.SendDataRequest(room=name, data=data, kind=api.DataPacket.Kind.RELIABLE, topic="api", **to)
        )
        await send(b"to all")
        await send(b"to bob", destination_identities=["bob"])
        (packet,) = await bob.hears("data_received", lambda p: p.data == b"to bob")
        assert packet.topic == "api" and packet.participant is None, packet
        await alice.hears("data_received", lambda p: p.data == b"to all")
        assert alice.heard("data_received", lambda p: p.data == b"to bob") is None
        say("list, get, mute, send data passed")

        await refused(lk.room.get_participant(api.RoomParticipantIdentity(room=name, identity="zoe")), "not_found")
        await refused(lk.room.remove_participant(api.RoomParticipantIdentity(room=name, identity="zoe")), "not_found")
        mark = alice.mark()
        await lk.room.remove_participant(api.RoomParticipantIdentity(room=name, identity="bob"))
        (reason,) = await bob.hears("disconnected")
        assert reason == 4, f"bob was disconnected for {reason}, not for PARTICIPANT_REMOVED"
        await alice.hears("participant_disconnected", lambda p: p.identity == "bob", since=mark, within=5)
        say("remove passed")

    async with granted(room_join=True, room=name) as joiner:
        await refused(joiner.room.create_room(api.CreateRoomRequest(name=other)), *unauthenticated)
        await refused(joiner.room.list_rooms(api.ListRoomsRequest()), *unauthenticated)
        await refused(joiner.room.delete_room(api.DeleteRoomRequest(room=name)), *unauthenticated)
        await refused(joiner.room.list_participants(api.ListParticipantsRequest(room=name)), *unauthenticated)
    async with granted(room_list=True) as lister:
        await lister.room.list_rooms(api.ListRoomsRequest())
        await refused(lister.room.create_room(api.CreateRoomRequest(name=other)), *unauthenticated)
    async with granted(room_admin=True, room=name) as admin:
        await admin.room.list_participants(api.ListParticipantsRequest(room=name))
        await refused(admin.room.list_participants(api.ListParticipantsRequest(room=other)), *unauthenticated)
        for identity in ("alice", "zoe"):
            person = api.RoomParticipantIdentity(room=other, identity=identity)
            await refused(admin.room.get_participant(person), *unauthenticated)
            await refused(admin.room.remove_participant(person), *unauthenticated)
        await refused(admin.room.send_data(api.SendDataRequest(room=other, data=b"x")), *unauthenticated)
        await refused(admin.room.delete_room(api.DeleteRoomRequest(room=name)), *unauthenticated)
    async with granted(secret="not the secret of this server, only as long", room_list=True, room_create=True) as forger:
        for call in (forger.room.list_rooms(api.ListRoomsRequest()), forger.room.create_room(api.CreateRoomRequest(name=other))):
            try:
                await call
                raise AssertionError("a token signed with another secret was accepted")
            except AssertionError:
                raise
            except Exception as error:
                # The middleware answers 401 in plain text, which the SDK cannot read as its own error.
                assert getattr(error, "status", 401) == 401, repr(error)
    say("wrong grants passed")

    async with api.LiveKitAPI(URL.replace("ws", "http", 1), KEY, SECRET) as lk:
        await lk.room.delete_room(api.DeleteRoomRequest(room=name))
        (reason,) = await alice.hears("disconnected")
        assert reason == 5, f"alice was disconnected for {reason}, not for ROOM_DELETED"
        assert not (await lk.room.list_rooms(api.ListRoomsRequest(names=[name]))).rooms
        await refused(lk.room.delete_room(api.DeleteRoomRequest(room=name)), "not_found")


run(scenario())
