"""A PLC, by the library's own client: reads variables by their NodeIds, and subscribes to some."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from asyncua import Client, ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.crypto.uacrypto import CertProperties
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

SECONDS = 200  # a request may take that long on a machine that has much to do


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def certificate_files(folder: Path, name: str, uri: str | None, bits: int = 2048) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    if uri is not None:
        made = made.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@contextlib.asynccontextmanager
async def connected(
    url: str, *, user: str | None = None, password: str | None = None, files: Sequence[Path] = ()
) -> AsyncIterator[Client]:
    client = Client(url, timeout=SECONDS)
    if user is not None:
        client.set_user(user)
    if password is not None:
        client.set_password(password)
    if files:
        client.application_uri = "urn:test:plc"
        await client.set_security(SecurityPolicyBasic256Sha256, *(CertProperties(path, "pem") for path in files))
    async with client:
        yield client


def node_id(name: str) -> ua.NodeId:
    return ua.NodeId(name, 2)


async def values(client: Client, *names: str) -> list[Any]:
    """In one request, as a PLC reads; of what has no value its status."""
    nodes = [client.get_node(node_id(name)) for name in names]
    found = await client.read_attributes(nodes)
    return [one.Value.Value if one.StatusCode.is_good() else one.StatusCode.name for one in found]


def read(url: str, *names: str, **login: Any) -> list[Any]:
    """`values` by a PLC that connects for it."""

    async def once() -> list[Any]:
        async with connected(url, **login) as client:
            return await values(client, *names)

    return asyncio.run(once())


def gather(url: str, name: str, meanwhile: Callable[[], Any], enough: Callable[[list[Any]], bool]) -> list[Any]:
    """What a subscriber to a variable is told while something is done in another thread, until it is enough."""

    class Told:
        def __init__(self) -> None:
            self.values: list[Any] = []
            self.news = asyncio.Event()

        def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
            self.values.append(value)
            self.news.set()

    async def follow() -> list[Any]:
        told = Told()
        async with connected(url) as client:
            subscription = await client.create_subscription(50, told)
            await subscription.subscribe_data_change(client.get_node(node_id(name)), queuesize=1000)
            await asyncio.to_thread(meanwhile)
            async with asyncio.timeout(SECONDS):
                while not enough(told.values):
                    told.news.clear()
                    await told.news.wait()
            await subscription.delete()
        return told.values

    return asyncio.run(follow())


class PlcReader:
    """The other end of an opcua sink; while it has ended, another program has the sink's port."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.where = f"127.0.0.1:{self.port}"
        self.url = f"opc.tcp://{self.where}/"
        self._other: socket.socket | None = None

    def keys(self, kind: str) -> dict[str, Any]:
        return {"listen": self.where}

    def ids(self) -> list[str]:
        return read(self.url, "LatestResult.ResultId")

    def end(self) -> None:
        self._other = socket.create_server(("127.0.0.1", self.port))

    def begin_again(self) -> None:
        assert self._other is not None
        self._other.close()
        self._other = None

    def close(self) -> None:
        if self._other is not None:
            self._other.close()
