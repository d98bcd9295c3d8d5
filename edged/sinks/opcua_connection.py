"""A connection to the OPC UA server that keeps no more of a client's bytes than one message may have."""

import functools
import struct
from typing import Final

import structlog

LONGEST_CHUNK: Final = 65535
"""Bytes, with the header; clients are told when they say hello."""

_PIECE: Final = 4096
_HEADER: Final = struct.Struct("<4xI")


@functools.cache
def bound() -> None:
    """Has the library's servers make such connections; it has no parameter for that."""
    from asyncua.server import binary_server_asyncio
    from asyncua.server.binary_server_asyncio import OPCUAProtocol

    class BoundedConnection(OPCUAProtocol):  # type: ignore[misc]  # a class of a package whose types are not read
        """The library's own waits for as many bytes as a header announces, up to 4 GB, before any login."""

        _buffer: bytes

        def data_received(self, data: bytes) -> None:
            """Takes bytes in; ends the connection where what is left of them is no beginning of a message."""
            for start in range(0, len(data), _PIECE):  # every message keeps a copy of all that came with it
                if self.transport is None or self.transport.is_closing():
                    return
                super().data_received(data[start : start + _PIECE])
                held = len(self._buffer)
                announced = _HEADER.unpack_from(self._buffer)[0] if held >= _HEADER.size else 0
                if max(held, announced) > LONGEST_CHUNK:
                    log = structlog.get_logger()
                    log.warning("an OPC UA client's message is too long", client=str(self.peer_name), bytes=announced)
                    self._buffer = b""
                    self.transport.close()

    binary_server_asyncio.OPCUAProtocol = BoundedConnection
