"""The uploading half of Xet, as hf_xet 1.8 speaks it: xorbs hold chunks, shards say which chunks make a file.

All numbers are little-endian. A hash is written as four numbers of 64 bits, in hexadecimal.
"""

import struct
from collections.abc import Iterator

_SEQUENCE = struct.Struct("<32sII8x")  # a file's hash, flags, number of segments
_SEGMENT = struct.Struct("<32s4x4xII")  # a xorb's hash, first chunk, end
_EXTENSION = struct.Struct("<32s16x")  # the file's sha256
_VERIFIED, _EXTENDED = 1 << 31, 1 << 30  # flags: a hash for each segment, an extension
_SHARD_HEADER = 48
_END = b"\xff" * 32


def chunks(xorb: bytes) -> list[bytes]:
    """The chunks of a xorb, unpacked."""
    found, position = [], 0
    while position < len(xorb):
        packed, scheme = int.from_bytes(xorb[position + 1 : position + 4], "little"), xorb[position + 4]
        size = int.from_bytes(xorb[position + 5 : position + 8], "little")
        data = xorb[position + 8 : position + 8 + packed]
        content = (bytes, lz4, grouped)[scheme](data)
        if len(content) != size:
            raise ValueError("a chunk has another size than its header says")
        found.append(content)
        position += 8 + packed
    return found


def files(shard: bytes) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """The sha256 of each file of a shard, and its segments: a xorb's hash, first chunk and end."""
    position = _SHARD_HEADER
    while shard[position : position + 32] != _END:
        _, flags, count = _SEQUENCE.unpack_from(shard, position)
        position += _SEQUENCE.size
        segments = [_SEGMENT.unpack_from(shard, position + i * _SEGMENT.size) for i in range(count)]
        position += count * _SEGMENT.size * (2 if flags & _VERIFIED else 1)
        if flags & _EXTENDED:
            yield (
                hexadecimal(*_EXTENSION.unpack_from(shard, position)),
                [(hexadecimal(h), a, b) for h, a, b in segments],
            )
            position += _EXTENSION.size


def hexadecimal(raw: bytes) -> str:
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def grouped(data: bytes) -> bytes:
    """LZ4, with the first bytes of all groups of four before all second ones, and so on."""
    flat = lz4(data)
    content = bytearray(len(flat))
    position = 0
    for lane in range(4):
        size = len(range(lane, len(flat), 4))
        content[lane::4] = flat[position : position + size]
        position += size
    return bytes(content)


def lz4(frame: bytes) -> bytes:
    """The content of an LZ4 frame of dependent or independent blocks."""
    flags, content = frame[4], bytearray()
    position = 7 + (8 if flags & 8 else 0)  # magic, flags, block size, maybe content size, header checksum
    while size := int.from_bytes(frame[position : position + 4], "little"):
        stored, size = size >> 31, size & 0x7FFFFFFF
        block = frame[position + 4 : position + 4 + size]
        content += block if stored else b""
        if not stored:
            _unpack(block, content)
        position += 4 + size + (4 if flags & 16 else 0)
    return bytes(content)


def _unpack(block: bytes, content: bytearray) -> None:
    """Append what an LZ4 block stands for: literal bytes, and copies of what came before."""
    position = 0

    def length(nibble: int) -> int:
        nonlocal position
        total = nibble
        while nibble == 15:
            total += block[position]
            position += 1
            if block[position - 1] != 255:
                break
        return total

    while position < len(block):
        token = block[position]
        position += 1
        literals = length(token >> 4)
        content += block[position : position + literals]
        position += literals
        if position >= len(block):
            return
        offset = int.from_bytes(block[position : position + 2], "little")
        position += 2
        copied = 4 + length(token & 15)
        seen = content[-offset:]
        content += (seen * (copied // offset + 1))[:copied]
