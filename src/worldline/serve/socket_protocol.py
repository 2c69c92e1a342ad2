"""WebSockets below the application: upgrades that uvicorn neither answers nor closes."""

from __future__ import annotations

from typing import Any, Final, final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

CLOSE_S: Final = 1.0
"""Seconds for the client to answer the end of the connection."""

_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@final
class SocketProtocol(WebSocketsSansIOProtocol):
    """Answers each upgrade."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.close_timeout = CLOSE_S

    def data_received(self, data: bytes) -> None:
        """Reads, and ends a connection whose headers were refused: uvicorn waits for a request that never comes."""
        super().data_received(data)
        if not self.handshake_initiated:
            self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_REQUEST)
            self.transport.close()
