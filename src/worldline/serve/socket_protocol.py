"""WebSockets below the application: refused upgrades, and the memory of what was received and not yet handled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from worldline.serve.problems import OverloadedError
from worldline.serve.shares import Resize

UNCOUNTED_BYTES: Final = 2**16
"""Largest size of what arrives before the caller is known."""
MESSAGE_BYTES: Final = 512
"""Memory of a message, or of a fragment of one, beside its content."""
TEXT_WEIGHT: Final = 4
"""Memory of a text, in sizes of its bytes, if one of its characters needs so much."""
CLOSE_S: Final = 1.0
"""Seconds for the client to answer the end of the connection."""

_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@final
class SocketProtocol(WebSocketsSansIOProtocol):
    """Counts the memory of received messages, and answers upgrades that uvicorn neither answers nor closes.

    uvicorn stops reading after a message that the application has not received. Before, one message arrives
    completely, and as many as there are in one read.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.close_timeout = CLOSE_S
        self._share: Resize | None = None
        self._refuse: Callable[[OverloadedError], None] | None = None
        self._sizes, self._whole_bytes = deque[int](), 0
        self._is_full = False

    def count(self, share: Resize | None, refuse: Callable[[OverloadedError], None] | None = None) -> None:
        """Counts as part of a share from now on.

        Args:
            share: of the caller; None if nobody reads further messages.
            refuse: called once if the caller holds too much. What arrives later is dropped.
        """
        self._share, self._refuse = share, refuse

    def handled(self) -> None:
        """The oldest message needs no more memory."""
        self._whole_bytes -= self._sizes.popleft()
        self._update()

    def data_received(self, data: bytes) -> None:
        """Reads, unless the share is used up."""
        if self._is_full:
            return
        super().data_received(data)
        if self.handshake_initiated:
            self._update()
        else:  # websockets refused a header, and uvicorn waits for a request that never comes
            self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_REQUEST)
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        """Shows this object to the application."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["state"]["protocol"] = self

    def send_receive_event_to_app(self) -> None:
        """Counts a whole message."""
        weight = TEXT_WEIGHT if self.curr_msg_data_type == "text" else 1
        self._sizes.append(MESSAGE_BYTES * len(self.frames) + weight * sum(map(len, self.frames)))
        self._whole_bytes += self._sizes[-1]
        super().send_receive_event_to_app()

    def _update(self) -> None:
        fragments = MESSAGE_BYTES * len(self.frames) + (self.conn.current_size or 0)
        held = len(self.conn.reader.buffer) + fragments + self._whole_bytes
        if self._share is None:
            if held > UNCOUNTED_BYTES:
                self.transport.abort()
            return
        try:
            self._share(held)
        except OverloadedError as error:
            self._is_full = True
            if self._refuse is not None:
                self._refuse(error)
