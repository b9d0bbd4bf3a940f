"""The Python SDK, of any version from 0.11 on, as publisher or viewer: libwebrtc behind the Rust SDK."""

import asyncio

from cuttable_proxy import CuttableProxy
from livekit import rtc
from media import Camera, Listener, Microphone, Viewer, accepted
from stack import Client, main

# Of decoded sound that counts as the tone; the full scale is 32767.
PEAK_MIN = 1_000
SAMPLES_PER_PACKET = 960


class PythonSdk(Client):
    def __init__(self, url: str, token: str, mode: str):
        super().__init__(url, token, mode)
        self.room = rtc.Room()
        self.proxy = CuttableProxy(url)
        self.detail["version"] = getattr(rtc, "__version__", None)
        self.viewer: Viewer | None = None
        self.reconnected = asyncio.Event()
        self._tasks = []

    async def join(self, role: str) -> None:
        self.room.on("participant_connected", lambda *_: setattr(self, "other_left", False))
        self.room.on("participant_disconnected", lambda *_: setattr(self, "other_left", True))
        self.room.on("data_received", lambda packet: self.exchange.received(packet.topic, bytes(packet.data)))
        self.room.on("reconnected", lambda *_: self.reconnected.set())
        self.room.on("track_subscribed", lambda track, *_: self._watch(track))
        options = rtc.RoomOptions(**accepted(rtc.RoomOptions, single_peer_connection=self.mode == "v1"))
        await self.room.connect(await self.proxy.start(), self.token, options)
        self.detail["path"] = self.proxy.paths[-1]
        wanted = {"v0": "/rtc", "v1": "/rtc/v1"}[self.mode]
        assert self.detail["path"] == wanted, f"joined by {self.proxy.paths}, not by {wanted}"

    def _watch(self, track) -> None:
        # By its type, not its kind, whose values are named differently in old versions.
        if isinstance(track, rtc.RemoteVideoTrack):
            self.viewer = Viewer(track)
        else:
            self._tasks.append(asyncio.ensure_future(self._listen(Listener(track))))

    async def _listen(self, listener: Listener) -> None:
        """Counts what is loud enough: silence is made up where no packet comes."""
        while True:
            await asyncio.sleep(0.1)
            heard, listener.samples = listener.samples, listener.samples[:0]
            blocks = [heard[i : i + SAMPLES_PER_PACKET] for i in range(0, len(heard), SAMPLES_PER_PACKET)]
            self.packets += sum(max(map(abs, block), default=0) > PEAK_MIN for block in blocks)

    @property
    def frames(self) -> int:
        """Decoded frames that show a number other than the one before."""
        numbers = self.viewer.numbers if self.viewer else []
        return sum(one != other for one, other in zip(numbers, numbers[1:]))

    @frames.setter
    def frames(self, _: int) -> None:
        """Counted above."""

    async def publish(self) -> None:
        self.camera, self.microphone = Camera(320, 180), Microphone()
        await self.camera.publish(self, **({"video_codec": rtc.VideoCodec.VP8} if hasattr(rtc, "VideoCodec") else {}))
        await self.microphone.publish(self)

    @property
    def me(self):
        return self.room.local_participant

    async def send(self, topic: str, payload: bytes) -> None:
        await self.me.publish_data(payload, topic=topic)

    async def resume(self) -> None:
        sid = self.me.sid
        self.reconnected.clear()
        self.proxy.cut()
        await self.reconnected.wait()
        assert self.me.sid == sid, f"{sid} came back as {self.me.sid}"

    async def leave(self) -> None:
        if self.viewer:
            self.detail["size"], self.detail["unreadable"] = self.viewer.size, self.viewer.unreadable
        await self.room.disconnect()


main(PythonSdk)
