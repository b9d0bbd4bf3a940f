"""What a program for one WebRTC stack does in Python: the command line and the steps that README.md describes.

A stack brings a `Client`; whether it did well is decided here.
"""

import argparse
import asyncio
import base64
import json
import os
import re
import sys
import time
import traceback

# How long the other one may be gone, in seconds: some clients lose their first answer and join once more.
REJOIN_S = 10
# What a viewer has to receive before a step counts.
FRAMES_MIN = 30
PACKETS_MIN = 50
# Between two messages that are repeated until they are answered.
REPEAT_S = 0.5


class Client:
    """A participant on one stack. What it receives it counts in `frames` and `packets`."""

    # For a partner of SDKs that are older than topics: the topic is the first line of the payload, in both directions.
    topics = True

    # Whether a lost signal connection can be taken up again.
    resumes = True

    def __init__(self, url: str, token: str, mode: str):
        self.url, self.token, self.mode = url, token, mode
        claims = token.split(".")[1]
        self.identity = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]
        self.frames = self.packets = 0
        self.other_left_at: float | None = None
        self.exchange = Exchange(self)
        # Whatever else helps to understand the report.
        self.detail: dict = {}

    @property
    def other_left(self) -> bool:
        return self.other_left_at is not None

    @other_left.setter
    def other_left(self, left: bool) -> None:
        self.other_left_at = time.monotonic() if left else None

    async def join(self, role: str) -> None:
        raise NotImplementedError

    async def publish(self) -> None:
        raise NotImplementedError

    async def send(self, topic: str, payload: bytes) -> None:
        raise NotImplementedError

    async def resume(self) -> None:
        """Loses the signal connection and takes it up again; fails when the participant's sid changes."""
        raise NotImplementedError

    async def leave(self) -> None:
        raise NotImplementedError


class Exchange:
    """Messages with the other participant: what was asked, what was answered."""

    def __init__(self, client: Client):
        self.client = client
        self.answered = self.asked = self.other_settled = False
        self._number = 0
        self._tasks: set[asyncio.Task] = set()

    @property
    def done(self) -> bool:
        return self.answered and self.asked

    def received(self, topic: str, payload: bytes) -> None:
        """A data message came from the other participant."""
        if not topic:
            first, _, payload = payload.partition(b"\n")
            topic = first.decode(errors="replace")
        if topic == "ping" and re.fullmatch(rb"\S+ \d+", payload):
            self.asked = True
            self._start(self._send("pong", payload))
        elif topic == "pong" and payload in [self._ping(n) for n in range(1, self._number + 1)]:
            self.answered = True
        elif topic == "settled":
            self.other_settled = True

    def ask(self) -> None:
        """Sends a ping after another, until one is answered."""

        async def asking():
            while not self.answered:
                self._number += 1
                await self._send("ping", self._ping(self._number))
                await asyncio.sleep(REPEAT_S)

        self._start(asking())

    def settle(self) -> None:
        """Says from now on that nothing is left to be witnessed."""

        async def settling():
            while True:
                await self._send("settled", self.client.identity.encode())
                await asyncio.sleep(REPEAT_S)

        self._start(settling())

    async def _send(self, topic: str, payload: bytes) -> None:
        if self.client.topics:
            await self.client.send(topic, payload)
        else:
            await self.client.send("", topic.encode() + b"\n" + payload)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _ping(self, number: int) -> bytes:
        return f"{self.client.identity} {number}".encode()

    def _start(self, coroutine) -> None:
        async def quietly():
            try:
                await coroutine
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # What was not sent is missed by the other participant, which says so; here it explains why.
                self.client.detail.setdefault("sending", repr(error))

        task = asyncio.ensure_future(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def play(client: Client, role: str, seconds: float) -> dict:
    """Goes through the steps, and returns the report."""
    report: dict = {"ok": False, "publish": None, "view": None, "data": False, "resume": None}
    report[role] = False
    if client.resumes:
        report["resume"] = False
    deadline = time.monotonic() + seconds
    exchange = client.exchange
    step = "join"

    async def until(condition, what: str):
        nonlocal step
        step = what
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            left_at = client.other_left_at if what != "the other one leaves" else None
            assert left_at is None or time.monotonic() < left_at + REJOIN_S, f"the other one left before: {what}"
            await asyncio.sleep(0.02)

    async def bounded(step_name: str, coroutine):
        nonlocal step
        step = step_name
        await asyncio.wait_for(coroutine, max(0.1, deadline - time.monotonic()))

    async def media(what: str):
        frames, packets = client.frames + FRAMES_MIN, client.packets + PACKETS_MIN
        await until(lambda: client.frames >= frames and client.packets >= packets, what)

    try:
        await bounded("join", client.join(role))
        if role == "publish":
            await bounded("publish", client.publish())
            report["publish"] = True
        exchange.ask()
        if role == "view":
            await media("media arrives")
            report["view"] = True
        await until(lambda: exchange.done, "data goes both ways")
        report["data"] = True
        if role == "view":
            if client.resumes:
                await bounded("resume", client.resume())
            await media("media arrives after the viewer's resume" if client.resumes else "media goes on")
            exchange.settle()
            await until(lambda: exchange.other_settled, "the publisher is settled")
            await media("media arrives after the publisher's resume")
            if client.resumes:
                report["resume"] = True
        else:
            await until(lambda: exchange.other_settled, "the viewer is settled")
            if client.resumes:
                await bounded("resume", client.resume())
                report["resume"] = True
            exchange.settle()
            await until(lambda: client.other_left, "the other one leaves")
    except BaseException as error:
        traceback.print_exc()
        client.detail["error"] = f"{step}: {error or type(error).__name__}"
    exchange.stop()
    try:
        await asyncio.wait_for(client.leave(), 5)
    except Exception as error:
        client.detail["leave"] = repr(error)
    succeeded = False not in [report[key] for key in ("publish", "view", "data", "resume")]
    report["ok"] = succeeded and "error" not in client.detail
    report["detail"] = {**client.detail, "frames": client.frames, "packets": client.packets}
    return report


def main(new_client) -> None:
    """Runs a client as the command line says, and ends the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-resume", action="store_true", help="leave out the resume, which is slow")
    parser.add_argument("--no-topics", action="store_true", help="have topics in the payload, as old SDKs need it")
    parser.add_argument("role", choices=("publish", "view"))
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--mode", choices=("v0", "v1"), required=True)
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()

    async def run():
        client = new_client(chosen.url, chosen.token, chosen.mode)
        client.resumes = client.resumes and not chosen.no_resume
        client.topics = not chosen.no_topics
        report = await play(client, chosen.role, chosen.seconds)
        print(json.dumps(report), flush=True)
        # Without the interpreter's shutdown, which native threads of a stack may outlive.
        sys.stderr.flush()
        os._exit(0 if report["ok"] else 1)

    asyncio.run(run())
