"""The oldest `livekit-api` that still installs makes a token and drives the RoomService."""

import asyncio
import os
import urllib.request
import uuid

import aiohttp
from livekit import api

URL = os.environ.get("LIVEKIT_URL", "ws://127.0.0.1:7880").replace("ws", "http", 1)
KEY, SECRET = os.environ.get("LIVEKIT_API_KEY", "devkey"), os.environ.get("LIVEKIT_API_SECRET", "secret")


async def scenario():
    name = f"old-python-{uuid.uuid4().hex[:8]}"
    lk = api.LiveKitAPI(URL, KEY, SECRET, timeout=aiohttp.ClientTimeout(60))
    service = lk.room
    room = await service.create_room(api.CreateRoomRequest(name=name, empty_timeout=60, max_participants=5))
    assert room.name == name and room.sid.startswith("RM_") and room.max_participants == 5, room
    rooms = await service.list_rooms(api.ListRoomsRequest())
    assert name in [one.name for one in rooms.rooms], rooms
    changed = await service.update_room_metadata(api.UpdateRoomMetadataRequest(room=name, metadata="second"))
    assert changed.metadata == "second", changed
    token = api.AccessToken(KEY, SECRET).with_identity("old").with_grants(api.VideoGrants(room_join=True, room=name))
    address = f"{URL}/rtc/validate?access_token={token.to_jwt()}"
    answer = await asyncio.to_thread(lambda: urllib.request.urlopen(address).read())
    assert answer == b"success", answer
    await service.delete_room(api.DeleteRoomRequest(room=name))
    await lk.aclose()


asyncio.run(scenario())
print("passed")
