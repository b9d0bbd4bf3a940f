"""A camera whose frames carry their number in black and white blocks, a microphone with one pitch, and readers of both.

The blocks are placed in proportion to the picture, so that a number is readable in every simulcast layer.
"""

import asyncio
import inspect
import math
import time
from array import array

from livekit import rtc

BITS = 16
FPS = 30
SAMPLE_RATE_HZ = 48_000
PITCH_HZ = 440
# Black and white in limited-range luma, and a grey between which no block has.
BLACK, WHITE, GREY = 16, 235, 96


def accepted(function, **arguments) -> dict:
    """Those of the arguments that the function takes in this version of the SDK; old ones have fewer, with these defaults."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in known}


class Camera:
    """Publishes numbered frames at 30 per second until stopped."""

    def __init__(self, width: int = 1280, height: int = 720):
        self.width, self.height = width, height
        self.source = rtc.VideoSource(width, height)
        self.track = rtc.LocalVideoTrack.create_video_track("camera", self.source)
        self.number = 0
        self._task: asyncio.Task | None = None
        # A band of noise that moves: each frame costs several packets, as those of a real camera do.
        self._noise = bytes(80 + (i * i * 7919 + i * 104729) % 64 for i in range(width * 2))

    def _frame(self) -> rtc.VideoFrame:
        width, height = self.width, self.height
        luma = bytearray([GREY]) * (width * height)
        block_w, block_h = width // BITS, height // 4
        row = b"".join(bytes([WHITE if self.number >> bit & 1 else BLACK]) * block_w for bit in range(BITS))
        luma[0 : width * block_h] = row.ljust(width, bytes([GREY])) * block_h
        shift = self.number * 8 % width
        band = self._noise[shift : shift + width]
        start = height // 2 * width
        luma[start : start + width * 32] = band * 32
        chroma = bytes([128]) * (width * height // 2)
        return rtc.VideoFrame(width, height, rtc.VideoBufferType.I420, luma + chroma)

    async def _film(self):
        begin = time.monotonic()
        taken = 0
        while True:
            self.number = (self.number + 1) % (1 << BITS)
            self.source.capture_frame(self._frame())
            taken += 1
            await asyncio.sleep(max(0.0, begin + taken / FPS - time.monotonic()))

    async def publish(self, member, **options) -> rtc.LocalTrackPublication:
        options.setdefault("simulcast", False)
        options.setdefault("source", rtc.TrackSource.SOURCE_CAMERA)
        self.start()
        return await member.me.publish_track(self.track, rtc.TrackPublishOptions(**options))

    def start(self):
        if self._task is None:
            self._task = asyncio.create_task(self._film())

    async def frames_sent(self) -> int:
        """Frames that the encoder has handed to the network, in the largest layer."""
        sent = [s.outbound_rtp.outbound.frames_sent for s in await self.track.get_stats() if s.HasField("outbound_rtp")]
        return max(sent, default=0)


async def arrived(track: rtc.RemoteVideoTrack) -> tuple[int, int]:
    """Frames that came whole, and packets that never came, of a remote video track."""
    for report in await track.get_stats():
        if report.HasField("inbound_rtp"):
            return report.inbound_rtp.inbound.frames_received, report.inbound_rtp.received.packets_lost
    return 0, 0


class Microphone:
    """Publishes a steady tone."""

    def __init__(self, pitch_hz: int = PITCH_HZ):
        self.pitch_hz = pitch_hz
        self.source = rtc.AudioSource(SAMPLE_RATE_HZ, 1)
        self.track = rtc.LocalAudioTrack.create_audio_track("microphone", self.source)

    async def publish(self, member) -> rtc.LocalTrackPublication:
        self._task = asyncio.create_task(self._play())
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        return await member.me.publish_track(self.track, options)

    async def _play(self):
        length = SAMPLE_RATE_HZ // 100
        at = 0
        while True:
            tone = (math.sin(2 * math.pi * self.pitch_hz * (at + i) / SAMPLE_RATE_HZ) for i in range(length))
            samples = array("h", (int(12_000 * value) for value in tone))
            at = (at + length) % SAMPLE_RATE_HZ
            await self.source.capture_frame(rtc.AudioFrame(samples.tobytes(), SAMPLE_RATE_HZ, 1, length))


def read_number(frame: rtc.VideoFrame) -> int | None:
    """The number in a decoded frame, or nothing when a block is neither black nor white."""
    luma, width = frame.data, frame.width
    block_w, block_h = width / BITS, frame.height / 4
    y = int(block_h / 2)
    number = 0
    for bit in range(BITS):
        x = int((bit + 0.5) * block_w)
        spots = [luma[(y + dy) * width + x + dx] for dy in (-2, 0, 2) for dx in (-2, 0, 2)]
        level = sum(spots) / len(spots)
        if level > 190:
            number |= 1 << bit
        elif level > 60:
            return None
    return number


class Viewer:
    """Reads the numbers of the frames of a remote video track as they are decoded."""

    def __init__(self, track: rtc.RemoteVideoTrack):
        self.frames = 0
        self.unreadable = 0
        self.numbers: list[int] = []
        self.size = (0, 0)
        self._task = asyncio.create_task(self._watch(rtc.VideoStream(track, format=rtc.VideoBufferType.I420)))

    async def _watch(self, stream):
        async for event in stream:
            self.frames += 1
            self.size = (event.frame.width, event.frame.height)
            number = read_number(event.frame)
            # Before the first captured frame the SDK sends pictures of its own.
            if number is None:
                self.unreadable += 1
            else:
                self.numbers.append(number)


class Listener:
    """Keeps the samples of a remote audio track, and measures their pitch."""

    def __init__(self, track: rtc.RemoteAudioTrack):
        self.samples = array("h")
        wanted = accepted(rtc.AudioStream, sample_rate=SAMPLE_RATE_HZ, num_channels=1)
        stream = rtc.AudioStream(track, **wanted)
        self._task = asyncio.create_task(self._listen(stream))

    async def _listen(self, stream):
        async for event in stream:
            self.samples.extend(event.frame.data)

    def pitch_hz(self, seconds: float) -> float:
        """The pitch of the last so many seconds: the median time between upward crossings of a tenth of the peak, with
        hysteresis. A receiver that starves for a moment leaves holes, which are few against the periods."""
        heard = self.samples[-int(seconds * SAMPLE_RATE_HZ) :]
        peak = max(map(abs, heard), default=0)
        assert peak > 1_000, f"hardly a sound arrives: peak {peak} of 32767"
        edge = peak // 10
        low, crossings = False, []
        for position, sample in enumerate(heard):
            if sample < -edge:
                low = True
            elif sample > edge and low:
                low = False
                crossings.append(position)
        # Ten periods at a time: the resolution of one is a fiftieth of the pitch.
        spans = sorted(b - a for a, b in zip(crossings, crossings[10:]))
        assert len(spans) > 100 * seconds, f"only {len(crossings)} periods in {seconds} s"
        return 10 * SAMPLE_RATE_HZ / spans[len(spans) // 2]
