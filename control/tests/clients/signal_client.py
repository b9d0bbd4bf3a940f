"""LiveKit's signalling for stacks that have no LiveKit SDK: a WebSocket of protobufs, on `/rtc` or `/rtc/v1`.

What it means for peer connections is with whoever uses it.
"""

import asyncio
import base64
from urllib.parse import urlencode

import aiohttp
from livekit.protocol import models, rtc

# The protocol version that these clients speak.
PROTOCOL = 16
JOIN_MAX_S = 10


class SignalClient:
    """Sends requests, and hands every response to `on_response(kind, message)` in order."""

    def __init__(self, url: str, token: str, mode: str, on_response):
        self.url, self.token, self.mode = url, token, mode
        self.on_response = on_response
        self.sid = ""
        self._http: aiohttp.ClientSession | None = None
        self._reading: asyncio.Task | None = None
        self._pinging: asyncio.Task | None = None

    async def join(self) -> rtc.JoinResponse:
        first = await self._open(reconnect=False)
        assert first.WhichOneof("message") == "join", f"the first message is {first}"
        self.sid = first.join.participant.sid
        self._pinging = asyncio.ensure_future(self._ping(first.join.ping_interval))
        return first.join

    async def resume(self) -> None:
        """Drops the socket without a word, and takes the session up again on another one."""
        self._reading.cancel()
        self._socket._response.connection.transport.abort()
        first = await self._open(reconnect=True)
        assert first.WhichOneof("message") == "reconnect", f"the first message of a resume is {first}"

    async def send(self, **message) -> None:
        await self._socket.send_bytes(rtc.SignalRequest(**message).SerializeToString())

    async def leave(self) -> None:
        if self._http:
            await self.send(leave=rtc.LeaveRequest(reason=models.DisconnectReason.CLIENT_INITIATED))
            for task in (self._reading, self._pinging):
                task.cancel()
            await self._http.close()

    async def _open(self, reconnect: bool) -> rtc.SignalResponse:
        self._http = self._http or aiohttp.ClientSession()
        headers = {"Authorization": f"Bearer {self.token}"}
        address = self.url + (self._v1(reconnect) if self.mode == "v1" else self._v0(reconnect))
        self._socket = await self._http.ws_connect(address, headers=headers, timeout=aiohttp.ClientWSTimeout(ws_close=1))
        first = rtc.SignalResponse.FromString((await self._socket.receive(JOIN_MAX_S)).data)
        self._reading = asyncio.ensure_future(self._read(self._socket))
        return first

    def _v0(self, reconnect: bool) -> str:
        query = {"auto_subscribe": 1, "protocol": PROTOCOL, "version": "1.0.0"}
        return "/rtc?" + urlencode(query | ({"reconnect": 1, "sid": self.sid} if reconnect else {}))

    def _v1(self, reconnect: bool) -> str:
        request = rtc.JoinRequest(
            client_info=models.ClientInfo(protocol=PROTOCOL, version="1.0.0"),
            connection_settings=rtc.ConnectionSettings(auto_subscribe=True),
            reconnect=reconnect,
            participant_sid=self.sid if reconnect else "",
        )
        wrapped = rtc.WrappedJoinRequest(join_request=request.SerializeToString())
        return "/rtc/v1?" + urlencode({"join_request": base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()})

    async def _read(self, socket) -> None:
        async for message in socket:
            response = rtc.SignalResponse.FromString(message.data)
            kind = response.WhichOneof("message")
            if kind is not None:
                await self.on_response(kind, getattr(response, kind))

    async def _ping(self, interval_s: int) -> None:
        while interval_s:
            await asyncio.sleep(interval_s)
            await self.send(ping_req=rtc.Ping(timestamp=1))
