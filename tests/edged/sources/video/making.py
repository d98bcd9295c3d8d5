"""Videos and cameras for the tests: files without loss, and a real server of MJPEG, all for the tiny model."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from tests.edged.making import until

FPS = 25


def picture(number: int, *, is_bad: bool) -> NDArray[np.uint8]:
    """uint8 (32, 32), as `making.good` and `bad` have it."""
    pixels = np.random.default_rng(number).integers(118, 139, (32, 32), dtype=np.uint8)
    if is_bad:
        pixels[8:12, 8:12] = 255
    return pixels


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], fps: int = FPS) -> Path:
    """A Matroska file of FFV1, which loses nothing."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "gray"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="gray")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def video(path: Path, count: int, bad: Sequence[range], fps: int = FPS) -> Path:
    """A video of `count` frames, of which those of the ranges are bad."""
    return write_video(
        path, (picture(number, is_bad=any(number in one for one in bad)) for number in range(count)), fps
    )


SERVER = """
import io, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import numpy as np
from PIL import Image
port, what, fps = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
class Camera(BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        if "Basic" not in self.headers.get("Authorization", "Basic"):
            return self.send_error(401)
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        number = 0
        while True:
            kind, number = what.read_text(), number + 1
            seed = 0 if kind == "frozen" else number
            pixels = np.random.default_rng(seed).integers(118, 139, (32, 32), dtype=np.uint8)
            if kind == "bad":
                pixels[8:16, 8:16] = 255
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
            data = b"garbage" * 20 if kind == "garbage" else buffer.getvalue()
            head = b"--frame\\r\\nContent-Type: image/jpeg\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(data)
            self.wfile.write(head + data + b"\\r\\n")
            self.wfile.flush()
            time.sleep(1 / fps)
server = ThreadingHTTPServer(("127.0.0.1", port), Camera)
what.with_name("port").write_text(str(server.server_port))
server.serve_forever()
"""


class Camera:
    """A real HTTP server of MJPEG in a process of its own, which can be stopped, killed and started again."""

    def __init__(self, root: Path, fps: float = 25) -> None:
        self._what, self._fps, self._port = root / "what", fps, 0
        self.show("good")
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/stream.mjpg"

    def start(self) -> None:
        told = self._what.with_name("port")
        told.unlink(missing_ok=True)
        arguments = [str(self._port), str(self._what), str(self._fps)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: told.exists() and told.read_text(), "the camera to be there")
        self._port = int(told.read_text())

    def show(self, kind: str) -> None:
        """good, bad, frozen, garbage."""
        partial = self._what.with_name("what.part")
        partial.write_text(kind)
        os.rename(partial, self._what)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


RTSP = """
import sys
from pathlib import Path
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
port, file, told = sys.argv[1], sys.argv[2], Path(sys.argv[3])
server = GstRtspServer.RTSPServer.new()
server.set_address("127.0.0.1")
server.set_service(port)
factory = GstRtspServer.RTSPMediaFactory.new()
factory.set_launch(f"( filesrc location={file} ! matroskademux ! h264parse ! rtph264pay name=pay0 config-interval=1 )")
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
told.write_text(str(server.get_bound_port()))
GLib.MainLoop().run()
"""


def has_rtsp() -> bool:
    """Whether the system's Python can serve RTSP: Debian's gir1.2-gst-rtsp-server-1.0 and what it takes."""
    program = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    done = subprocess.run(["/usr/bin/python3", "-c", program], capture_output=True, check=False)
    return done.returncode == 0


class RtspCamera:
    """A real RTSP server in a process of its own, which shows a file of H.264 from its beginning to who comes."""

    def __init__(self, root: Path, file: Path) -> None:
        self._told, self._file, self._port = root / "rtsp-port", file, 0
        self.start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self._port}/live"

    def start(self) -> None:
        self._told.unlink(missing_ok=True)
        arguments = [str(self._port), str(self._file), str(self._told)]
        self.process = subprocess.Popen(["/usr/bin/python3", "-c", RTSP, *arguments])
        until(lambda: self._told.exists() and self._told.read_text(), "the camera to be there")
        self._port = int(self._told.read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def write_h264(path: Path, frames: Iterable[NDArray[np.uint8]], fps: int = FPS) -> Path:
    """A Matroska file of H.264, of frames of 128x128 px: encoders want no smaller ones."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10", "g": str(fps)})
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels.repeat(4, axis=0).repeat(4, axis=1), format="gray")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    return path
