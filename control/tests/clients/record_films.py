"""Makes `numbered.ivf` and `tone.ivf`, which stacks without an encoder publish: two seconds each, to be repeated.

The picture is the one of `media.py`, as VP8. The sound is its tone as Opus packets of 20 ms; IVF is a container for
frames of any kind, which saves those stacks a second reader.
"""

import math
import struct
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy
from media import FPS, PITCH_HZ, SAMPLE_RATE_HZ, Camera

WIDTH, HEIGHT = 320, 180
FRAMES = 60
PACKETS = 100
SAMPLES_PER_PACKET = 960


def write(path: str, fourcc: bytes, size: tuple[int, int], per_second: int, packets: list[bytes]) -> None:
    with open(path, "wb") as file:
        file.write(struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, fourcc, *size, per_second, 1, len(packets), 0))
        for number, packet in enumerate(packets):
            file.write(struct.pack("<IQ", len(packet), number) + packet)


def film() -> list[bytes]:
    encoder = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base, encoder.bit_rate = Fraction(1, FPS), 300_000
    # A key frame a second: whoever joins waits no longer, as nobody makes one on request.
    encoder.options = {"deadline": "good", "g": str(FPS), "keyint_min": str(FPS), "lag-in-frames": "0", "auto-alt-ref": "0"}
    camera = SimpleNamespace(width=WIDTH, height=HEIGHT, number=0)
    camera._noise = bytes(80 + (i * i * 7919 + i * 104729) % 64 for i in range(WIDTH * 2))
    packets = []
    for number in range(1, FRAMES + 1):
        camera.number = number
        picture = numpy.frombuffer(bytes(Camera._frame(camera).data), numpy.uint8).reshape(HEIGHT * 3 // 2, WIDTH)
        frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
        frame.pts = number
        packets += encoder.encode(frame)
    return [bytes(packet) for packet in packets + encoder.encode(None)]


def tone() -> list[bytes]:
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format, encoder.bit_rate = SAMPLE_RATE_HZ, "mono", "s16", 32_000
    packets = []
    # More than is kept: the first packets hold the encoder's delay.
    for number in range(PACKETS + 10):
        at = numpy.arange(number * SAMPLES_PER_PACKET, (number + 1) * SAMPLES_PER_PACKET)
        samples = (12_000 * numpy.sin(2 * math.pi * PITCH_HZ * at / SAMPLE_RATE_HZ)).astype(numpy.int16)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "s16", "mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, int(at[0])
        packets += encoder.encode(frame)
    return [bytes(packet) for packet in packets][10 : PACKETS + 10]


write("numbered.ivf", b"VP80", (WIDTH, HEIGHT), FPS, film())
write("tone.ivf", b"OPUS", (0, 0), 50, tone())
