"""aiortc as publisher or viewer: a WebRTC stack in Python that shares nothing with libwebrtc but the codecs."""

import asyncio
import fractions
import json
import math
from types import SimpleNamespace

import aioice.ice
import aiortc
import av
import numpy
from aiortc.sdp import candidate_from_sdp
from livekit.protocol import models, rtc
from media import BITS, BLACK, GREY, PITCH_HZ, SAMPLE_RATE_HZ, WHITE, read_number
from signal_client import SignalClient
from stack import Client, main

WIDTH, HEIGHT = 320, 180
SAMPLES_PER_PACKET = 960
# Of decoded sound that counts as the tone; the full scale is 32767.
PEAK_MIN = 1_000

# Its own choice leaves loopback out, and the server is nowhere else.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


class Film(aiortc.VideoStreamTrack):
    """Numbered frames, as `media.py` has them."""

    def __init__(self):
        super().__init__()
        self.number = 0

    async def recv(self):
        pts, time_base = await self.next_timestamp()
        self.number = (self.number + 1) % (1 << BITS)
        luma = numpy.full((HEIGHT, WIDTH), GREY, numpy.uint8)
        block = WIDTH // BITS
        for bit in range(BITS):
            luma[: HEIGHT // 4, bit * block : (bit + 1) * block] = WHITE if self.number >> bit & 1 else BLACK
        picture = numpy.vstack([luma, numpy.full((HEIGHT // 2, WIDTH), 128, numpy.uint8)])
        frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
        frame.pts, frame.time_base = pts, time_base
        return frame


class Tone(aiortc.AudioStreamTrack):
    """A steady tone."""

    def __init__(self):
        super().__init__()
        self.at = 0
        self.begin: float | None = None

    async def recv(self):
        now = asyncio.get_event_loop().time()
        self.begin = now if self.begin is None else self.begin
        await asyncio.sleep(max(0.0, self.begin + self.at / SAMPLE_RATE_HZ - now))
        times = numpy.arange(self.at, self.at + SAMPLES_PER_PACKET) / SAMPLE_RATE_HZ
        samples = (12_000 * numpy.sin(2 * math.pi * PITCH_HZ * times)).astype(numpy.int16)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "s16", "mono")
        frame.pts, frame.sample_rate, frame.time_base = self.at, SAMPLE_RATE_HZ, fractions.Fraction(1, SAMPLE_RATE_HZ)
        self.at += SAMPLES_PER_PACKET
        return frame


class Aiortc(Client):
    def __init__(self, url: str, token: str, mode: str):
        super().__init__(url, token, mode)
        self.detail["version"] = aiortc.__version__
        # It has no ICE restart, which the server's offer on `/rtc` begins after a resume.
        self.resumes = mode == "v1"
        self.signal = SignalClient(url, token, mode, self._on_response)
        self.published: dict[str, asyncio.Event] = {}
        self.answer: asyncio.Future | None = None
        self.offering = asyncio.Lock()
        self.channel: aiortc.RTCDataChannel | None = None
        self.last_number: int | None = None
        self.tasks: set[asyncio.Task] = set()
        self.connections = {}
        for target in [rtc.SignalTarget.PUBLISHER] + ([rtc.SignalTarget.SUBSCRIBER] if mode == "v0" else []):
            connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
            connection.on("track", self._watch)
            connection.on("datachannel", self._adopt)
            self.connections[target] = connection
        self.publisher = self.connections[rtc.SignalTarget.PUBLISHER]

    async def join(self, role: str) -> None:
        await self.signal.join()
        self.channel = self._adopt(self.publisher.createDataChannel("_reliable"))
        self._adopt(self.publisher.createDataChannel("_lossy", ordered=True, maxRetransmits=0))
        if role == "view":
            if self.mode == "v1":
                for kind in ("audio", "video"):
                    self.publisher.addTransceiver(kind, direction="recvonly")
            await self._offer()

    async def publish(self) -> None:
        for track, source in ((Film(), models.TrackSource.CAMERA), (Tone(), models.TrackSource.MICROPHONE)):
            self.published[track.id] = asyncio.Event()
            is_video = track.kind == "video"
            await self.signal.send(
                add_track=rtc.AddTrackRequest(
                    cid=track.id,
                    name=track.kind,
                    type=models.TrackType.VIDEO if is_video else models.TrackType.AUDIO,
                    source=source,
                    width=WIDTH if is_video else 0,
                    height=HEIGHT if is_video else 0,
                )
            )
            await self.published[track.id].wait()
            self.publisher.addTrack(track)
        await self._offer()

    async def _offer(self) -> None:
        async with self.offering:
            self.answer = asyncio.get_event_loop().create_future()
            await self.publisher.setLocalDescription(await self.publisher.createOffer())
            await self.signal.send(offer=rtc.SessionDescription(type="offer", sdp=self.publisher.localDescription.sdp))
            answer = await self.answer
            await self.publisher.setRemoteDescription(aiortc.RTCSessionDescription(answer.sdp, "answer"))

    async def _on_response(self, kind: str, message) -> None:
        if kind == "answer" and self.answer and not self.answer.done():
            self.answer.set_result(message)
        elif kind == "offer":
            subscriber = self.connections[rtc.SignalTarget.SUBSCRIBER]
            await subscriber.setRemoteDescription(aiortc.RTCSessionDescription(message.sdp, "offer"))
            await subscriber.setLocalDescription(await subscriber.createAnswer())
            answer = rtc.SessionDescription(type="answer", sdp=subscriber.localDescription.sdp, id=message.id)
            await self.signal.send(answer=answer)
        elif kind == "trickle":
            self._start(self._add_candidate(message))
        elif kind == "media_sections_requirement":
            for section, count in (("audio", message.num_audios), ("video", message.num_videos)):
                for _ in range(count):
                    self.publisher.addTransceiver(section, direction="recvonly")
            self._start(self._offer())
        elif kind == "track_published":
            self.published[message.cid].set()
        elif kind == "update":
            for who in message.participants:
                if who.state == models.ParticipantInfo.State.DISCONNECTED and who.sid != self.signal.sid:
                    self.other_left = True
        elif kind == "leave":
            self.detail["leave"] = str(message)

    async def _add_candidate(self, trickle) -> None:
        init = json.loads(trickle.candidateInit or "{}")
        connection = self.connections.get(trickle.target)
        if not init.get("candidate") or connection is None:
            return
        # It may come before the description that it belongs to.
        while connection.remoteDescription is None:
            await asyncio.sleep(0.01)
        candidate = candidate_from_sdp(init["candidate"].removeprefix("candidate:"))
        candidate.sdpMid, candidate.sdpMLineIndex = init.get("sdpMid"), init.get("sdpMLineIndex")
        await connection.addIceCandidate(candidate)

    def _adopt(self, channel: aiortc.RTCDataChannel) -> aiortc.RTCDataChannel:
        """Reads the channel: on `/rtc` the server's are the ones it sends on."""

        @channel.on("message")
        def received(message):
            packet = models.DataPacket.FromString(message)
            if packet.WhichOneof("value") == "user":
                self.exchange.received(packet.user.topic, packet.user.payload)

        return channel

    def _watch(self, track) -> None:
        self._start(self._see(track) if track.kind == "video" else self._hear(track))

    async def _see(self, track) -> None:
        """Counts decoded frames that show a number other than the one before."""
        while True:
            frame = await track.recv()
            luma = frame.reformat(format="yuv420p").to_ndarray()[: frame.height]
            number = read_number(SimpleNamespace(data=luma.tobytes(), width=frame.width, height=frame.height))
            self.frames += number is not None and number != self.last_number
            self.last_number = number

    async def _hear(self, track) -> None:
        while True:
            frame = await track.recv()
            self.packets += bool(numpy.abs(frame.to_ndarray().astype(numpy.int32)).max() > PEAK_MIN)

    async def send(self, topic: str, payload: bytes) -> None:
        if self.channel.readyState == "open":
            packet = models.DataPacket(
                kind=models.DataPacket.Kind.RELIABLE, user=models.UserPacket(payload=payload, topic=topic)
            )
            self.channel.send(packet.SerializeToString())

    async def resume(self) -> None:
        await self.signal.resume()

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        await self.signal.leave()
        for connection in self.connections.values():
            await connection.close()

    def _start(self, coroutine) -> None:
        async def noted():
            try:
                await coroutine
            except (asyncio.CancelledError, aiortc.mediastreams.MediaStreamError):
                pass
            except Exception as error:
                self.detail.setdefault("failed", repr(error))

        task = asyncio.ensure_future(noted())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


main(Aiortc)
