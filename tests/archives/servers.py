"""Servers on loopback that behave, and some that do not."""

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread


@contextmanager
def serving(handler, folder: Path) -> Iterator[str]:
    """Serve the files of a folder as a handler does; the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.served = folder
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """Sends whole files, and no parts."""

    def log_message(self, *args):
        pass

    def translate_path(self, path):
        return str(self.server.served / path[1:])


class Parts(Quiet):
    """Sends what is asked for of a file, and ends the first connection after `bytes_at_first`."""

    bytes_at_first = None
    sent = None  # the list of each answer's status and first byte

    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
        status = 206 if start < len(content) else 416
        self.sent.append((status, start))
        self.send_response(status)
        rest = content[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.bytes_at_first])
        type(self).bytes_at_first = None


class Ranges(Quiet):
    """Sends the parts of a file that are asked for, from its end too."""

    bytes_sent = 0

    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers["Range"]).groups()
        start = int(first) if first else max(0, len(content) - int(last))
        stop = min(len(content), int(last) + 1) if first and last else len(content)
        self.send_response(206)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:stop])
        type(self).bytes_sent += stop - start


class Trouble(Quiet):
    """Sends no parts, and meets each trouble of a list once, the last first."""

    troubles: list[str | None]  # "stall", "reset", "promise more" or "promise less"
    released = Event()  # those that stall

    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        trouble = self.troubles.pop() if self.troubles else None
        half = content[: len(content) // 2]
        promised = {"promise more": 2 * len(content), "promise less": len(half)}
        self.send_response(200)
        self.send_header("Content-Length", str(promised.get(trouble, len(content))))
        self.end_headers()
        self.wfile.write(half if trouble in ("stall", "reset") else content)
        if trouble == "stall":
            self.released.wait(10)
        if trouble == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
