"""Joining a room with the Python SDK, waiting with a bound, and cutting a signal connection.

Every script runs alone as well: LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET name a running server.
The first argument is the connection model: v1 (one peer connection, `/rtc/v1`) or v0 (two, `/rtc`).
"""

import asyncio
import os
import sys
import time
import traceback
import uuid

from livekit import api, rtc

URL = os.environ.get("LIVEKIT_URL", "ws://127.0.0.1:7880")
KEY = os.environ.get("LIVEKIT_API_KEY", "devkey")
SECRET = os.environ.get("LIVEKIT_API_SECRET", "secret")
# Seconds any single step may take: far above what it takes on an idle machine, as tests share two cores.
PATIENCE_S = 20


def model() -> str:
    """The connection model asked for on the command line."""
    chosen = sys.argv[1] if len(sys.argv) > 1 else "v1"
    assert chosen in ("v0", "v1"), f"the connection model is v0 or v1, not {chosen!r}"
    return chosen


def new_room_name(topic: str) -> str:
    return f"{topic}-{uuid.uuid4().hex[:8]}"


def token(identity: str, room: str, **grants) -> str:
    return (
        api.AccessToken(KEY, SECRET)
        .with_identity(identity)
        .with_name(identity.capitalize())
        .with_grants(api.VideoGrants(room_join=True, room=room, can_update_own_metadata=True, **grants))
        .to_jwt()
    )


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:7.2f} s] {text}", flush=True)


STARTED = time.monotonic()


class Member:
    """A participant, and everything its room has told it so far."""

    def __init__(self, identity: str):
        self.identity = identity
        self.room = rtc.Room()
        self.events: list[tuple[str, tuple]] = []
        self._news = asyncio.Event()
        for name in (
            "participant_connected", "participant_disconnected", "track_published", "track_unpublished",
            "track_subscribed", "track_unsubscribed", "track_muted", "track_unmuted", "data_received",
            "local_track_subscribed", "participant_metadata_changed", "participant_attributes_changed",
            "participant_name_changed", "room_metadata_changed", "active_speakers_changed", "disconnected",
            "reconnecting", "reconnected", "participant_permissions_changed",
        ):
            self.room.on(name, self._listener(name))

    def _listener(self, name: str):
        def listener(*args):
            self.events.append((name, args))
            if name not in ("data_received", "active_speakers_changed"):
                say(f"{self.identity}: {name} {', '.join(str(a)[:60] for a in args)}")
            self._news.set()

        return listener

    async def join(self, room: str, url: str = URL, **grants) -> "Member":
        options = rtc.RoomOptions(single_peer_connection=model() == "v1")
        await asyncio.wait_for(self.room.connect(url, token(self.identity, room, **grants), options), PATIENCE_S)
        say(f"{self.identity}: joined as {self.room.local_participant.sid}")
        return self

    @property
    def me(self) -> rtc.LocalParticipant:
        return self.room.local_participant

    def sees(self, identity: str) -> rtc.RemoteParticipant | None:
        return self.room.remote_participants.get(identity)

    def heard(self, name: str, wanted=lambda *args: True, since: int = 0) -> tuple | None:
        """The arguments of the first such event since the given position, if it came."""
        for event, args in self.events[since:]:
            if event == name and wanted(*args):
                return args
        return None

    async def hears(self, name: str, wanted=lambda *args: True, since: int = 0, within: float = PATIENCE_S) -> tuple:
        """Waits for such an event; fails when it does not come in time."""
        deadline = time.monotonic() + within
        while True:
            self._news.clear()
            if (args := self.heard(name, wanted, since)) is not None:
                return args
            try:
                await asyncio.wait_for(self._news.wait(), deadline - time.monotonic())
            except (TimeoutError, asyncio.TimeoutError):
                told = [event for event, _ in self.events[since:]]
                raise AssertionError(f"{self.identity} heard no {name} within {within} s, only {told[-20:]}") from None

    def mark(self) -> int:
        """The position of the next event, for `since`."""
        return len(self.events)

    async def leave(self) -> None:
        await asyncio.wait_for(self.room.disconnect(), PATIENCE_S)


async def until(condition, what: str, within: float = PATIENCE_S):
    """Waits until the condition yields something true, and returns it."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what}")
        await asyncio.sleep(0.02)


async def server(command: str) -> None:
    """Has the test that runs this script do something to the server: kill, start or terminate."""
    say(f"asks: {command} the server")
    print(f"@server {command}", flush=True)
    answer = await asyncio.to_thread(sys.stdin.readline)
    assert answer.strip() == "done", f"the server's keeper answered {answer!r}"


def run(scenario) -> None:
    """Runs the scenario to its end, or to its first failure."""

    async def to_the_end():
        try:
            await scenario
        except BaseException:
            traceback.print_exc()
            say("failed")
            leave_at_once(1)
        say("passed")
        leave_at_once(0)

    asyncio.run(to_the_end())


def leave_at_once(status: int) -> None:
    """Exits without the interpreter's shutdown, which the SDK's native threads may outlive."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
