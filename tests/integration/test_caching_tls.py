"""Redis over TLS: what is trusted, what is refused, and everything that speaks to Redis works over it.

Once with a server that speaks TLS itself, where one is installed (the embedded Valkey is built without it), and once with the
embedded Valkey behind a TLS endpoint of the test's own: real handshakes of our client both times.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import re
import shutil
import socket
import ssl
import subprocess
import time
import uuid
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis import Redis as BlockingRedis
from redis.exceptions import RedisError

from dotmac.database.caching import (
    MISSING,
    CachePolicy,
    SmartCache,
    _certificates,
    _client,
    close_redis_client,
    get_redis_client,
)
from dotmac.database.caching._client import RedisServer
from dotmac.database.coordination import RedisLock
from dotmac.database.embedded import EmbeddedValkey
from dotmac.database.errors import ConfigurationError, LockUnavailableError

# redis-py 7.4's own cluster client uses what redis-py 7.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*lib_name:DeprecationWarning")

PATIENT = CachePolicy(timeout_seconds=10, memory_seconds=60)


class Authority:
    """A certificate authority of the test's own, and what it signs."""

    def __init__(self, directory, name):
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._signed(
            self.name, self.key, (x509.BasicConstraints(ca=True, path_length=None), True)
        )
        self.file = self._written(f"{name}.crt", certificate)

    def issue(self, name, *addresses):
        """Files of a certificate and its key, for these addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        extensions = [(x509.SubjectAlternativeName(names), False)] if names else []
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.directory / f"{name}.key").write_bytes(private)
        certificate = self._signed(subject, key, *extensions)
        return self._written(f"{name}.crt", certificate), self.directory / f"{name}.key"

    def _signed(self, subject, key, *extensions):
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self.name,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(hours=1),
            not_valid_after=now + timedelta(hours=1),
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def _written(self, name, certificate):
        file = self.directory / name
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return file


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("trusted"), "trusted")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def server_files(authority):
    """The server's certificate and key, for 127.0.0.1 and no other name."""
    return authority.issue("server", "127.0.0.1")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@functools.cache
def tls_program():
    """A Redis or Valkey that is built with TLS; None if there is none."""
    for name in ("valkey-server", "redis-server"):
        program = shutil.which(name)
        if program is not None:
            # With TLS it misses the certificate, without TLS it misses TLS.
            tried = subprocess.run(
                [program, "--port", "0", "--tls-port", str(free_port())],
                capture_output=True,
                timeout=20,
                check=False,
            )
            if b"tls-key-file" in tried.stdout or b"tls-cert-file" in tried.stdout:
                return program
    return None


@contextlib.contextmanager
def tls_server(directory, files, authority, configuration="", *options):
    """A server that speaks nothing but TLS; its port."""
    program = tls_program()
    if program is None:
        pytest.skip("no Redis or Valkey on the PATH is built with TLS")
    port = free_port()
    directory.mkdir()
    file = directory / "server.conf"
    file.write_text(
        f"bind 127.0.0.1\nport 0\ntls-port {port}\ntls-cert-file {files[0]}\ntls-key-file {files[1]}\n"
        f"tls-ca-cert-file {authority.file}\ntls-replication yes\ndir {directory}\nsave ''\n{configuration}\n"
    )
    process = subprocess.Popen([program, file, *options], stdout=subprocess.DEVNULL)
    try:
        until(lambda: process.poll() is not None or is_open(port))
        assert process.poll() is None
        yield port
    finally:
        process.kill()
        process.wait()


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)  # servers that start tell nobody


def is_open(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.asynccontextmanager
async def tls_endpoint(path, files, authority, *, demands_client):
    """TLS in front of the Unix socket of a server that has none; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    if demands_client:
        context.load_verify_locations(authority.file)
        context.verify_mode = ssl.CERT_REQUIRED

    async def copy(reader, writer):
        try:
            while part := await reader.read(65_536):
                writer.write(part)
                await writer.drain()
        finally:
            writer.transport.abort()
            await writer.wait_closed()

    async def accept(reader, writer):
        tasks.add(asyncio.current_task())
        far_reader, far_writer = await asyncio.open_unix_connection(path)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer), return_exceptions=True)

    tasks = set()
    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(scope="module")
def valkey():
    with EmbeddedValkey() as valkey:
        yield valkey


@pytest.fixture(params=["server", "endpoint"])
async def serve(request, tmp_path, authority, server_files):
    """Starts a Redis that speaks TLS; returns what makes its URLs."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*, demands_client=False):
            if request.param == "server":
                demand = f"tls-auth-clients {'yes' if demands_client else 'no'}"
                port = stack.enter_context(tls_server(tmp_path / "server", server_files, authority, demand))
                credentials = ""
            else:
                address = request.getfixturevalue("valkey").address
                endpoint = tls_endpoint(
                    address.socket_path, server_files, authority, demands_client=demands_client
                )
                port = await stack.enter_async_context(endpoint)
                credentials = f":{address.password}@"

            def url(host="127.0.0.1", **options):
                return f"rediss://{credentials}{host}:{port}/0?{urlencode(options)}"

            return url

        yield start


@contextlib.asynccontextmanager
async def connected(url):
    server = RedisServer(url, max_connections=20)
    try:
        yield server.client()
    finally:
        await server.close()


async def assert_refused(client, reason, caplog):
    """Nothing is sent to a server that is not trusted, and who asks is told why."""
    with pytest.raises(RedisError, match=r"connecting|SSL|TLS"):
        await client.ping()
    with pytest.raises(LockUnavailableError, match=reason):
        async with RedisLock("tls", ttl=5, client=client):
            pytest.fail("the lock was granted by a server that is not trusted")
    cache = SmartCache("tls", policy=PATIENT, client=client, prefix=uuid.uuid4().hex)
    with caplog.at_level(logging.WARNING, "dotmac.database.caching"):
        assert await cache.set("a", 1) is False
        assert await cache.get("a", default=MISSING) is MISSING
        assert await cache.get_or_load("a", lambda: "loaded") == "loaded"
    stats = await cache.get_stats()
    assert (stats["hits"], stats["writes"]) == (0, 0)
    assert stats["errors"] >= 2
    warnings = [text for text in caplog.messages if re.search(reason, text)]
    assert len(warnings) == 1


async def test_cache_copies_and_locks_work_over_tls(serve, authority):
    url = (await serve())(ssl_ca_certs=authority.file)
    prefix = uuid.uuid4().hex
    async with connected(url) as client, connected(url) as other:
        mine, theirs = (SmartCache("c", policy=PATIENT, client=one, prefix=prefix) for one in (client, other))
        await mine.set("user", 1, {"name": "Ada"}, tags=["team"])
        await theirs.get("warm-up")
        await theirs._link().copies(theirs._spaces[None].scope).serves()
        assert [await theirs.get("user", 1) for _ in range(3)] == [{"name": "Ada"}] * 3
        assert (await theirs.get_stats())["memory_hits"] == 2
        await mine.set("user", 1, "new")
        assert await theirs.get("user", 1) == "new"
        await mine.set("tagged", 1, tags=["team"])
        assert await theirs.get("tagged") == 1
        await theirs.invalidate_tags("team")
        assert await mine.get("tagged", default=MISSING) is MISSING
        assert await mine.delete("user", 1) is True
        assert await theirs.get("user", 1, default=MISSING) is MISSING
        assert (await mine.get_stats())["errors"] == (await theirs.get_stats())["errors"] == 0

        async with RedisLock(prefix, ttl=5, client=client) as first:
            token = first.fencing_token
            async with RedisLock(prefix, ttl=5, client=other) as second:
                assert not second.acquired
            third = RedisLock(prefix, ttl=5, wait=10, client=other)
            waiting = asyncio.create_task(third.__aenter__())
            await asyncio.sleep(0.1)
            assert not waiting.done()
        assert (await asyncio.wait_for(waiting, 3)).fencing_token > token  # woken by the release, over TLS
        await third.__aexit__(None, None, None)


async def test_the_process_wide_client_works_over_tls(serve, authority, monkeypatch):
    monkeypatch.setenv("REDIS_URL", (await serve())(ssl_ca_certs=authority.file))
    _client._process_wide.cache_clear()
    try:
        assert await get_redis_client().ping() is True
        cache = SmartCache("process-wide", policy=PATIENT, prefix=uuid.uuid4().hex)
        assert await cache.set("a", 1) is True
        assert await cache.get("a") == 1
        async with RedisLock(uuid.uuid4().hex, ttl=5) as lock:
            assert lock.acquired
    finally:
        await close_redis_client()
        _client._process_wide.cache_clear()


@pytest.mark.parametrize("trusted", ["nothing but the system's", "another authority"])
async def test_a_certificate_of_an_unknown_authority_is_refused(serve, stranger, caplog, trusted):
    url = await serve()
    options = {"ssl_ca_certs": stranger.file} if trusted == "another authority" else {}
    async with connected(url(**options)) as client:
        await assert_refused(client, "not accepted: (self-signed|unable to get local issuer)", caplog)


async def test_a_certificate_for_another_host_is_refused(serve, authority, caplog):
    url = await serve()
    async with connected(url("localhost", ssl_ca_certs=authority.file)) as client:
        await assert_refused(client, "not accepted: Hostname mismatch", caplog)


async def test_verification_is_off_only_when_switched_off(serve, authority):
    url = await serve()
    async with connected(url("localhost", ssl_ca_certs=authority.file, ssl_check_hostname="no")) as client:
        assert await client.ping() is True
    async with connected(url("localhost", ssl_cert_reqs="none")) as client:
        assert await client.ping() is True


async def test_a_client_shows_its_certificate_to_a_server_that_demands_one(serve, authority, stranger):
    url = await serve(demands_client=True)
    trust = {"ssl_ca_certs": authority.file}
    certificate, key = authority.issue("client")
    async with connected(url(**trust, ssl_certfile=certificate, ssl_keyfile=key)) as client:
        cache = SmartCache("client", policy=PATIENT, client=client, prefix=uuid.uuid4().hex)
        assert await cache.set("a", 1) is True
        assert await cache.get("a") == 1
        async with RedisLock(uuid.uuid4().hex, ttl=5, client=client) as lock:
            assert lock.acquired
    certificate, key = stranger.issue("client")
    for wrong in ({}, {"ssl_certfile": certificate, "ssl_keyfile": key}):
        async with connected(url(**trust, **wrong)) as client:
            cache = SmartCache("client", policy=PATIENT, client=client)
            assert await cache.get("a", default=MISSING) is MISSING
            with pytest.raises(LockUnavailableError):
                await RedisLock("client", ttl=5, client=client).__aenter__()


async def test_connections_at_once_do_not_each_read_the_certificates(serve, authority):
    """Reading takes tens of milliseconds of the event loop; ten connections that did would all miss the cache's deadline."""
    async with connected((await serve())(ssl_ca_certs=authority.file)) as client:
        cache = SmartCache(
            "cold", policy=CachePolicy(timeout_seconds=1), client=client, prefix=uuid.uuid4().hex
        )
        connections = await asyncio.gather(*[client.connection_pool.get_connection() for _ in range(10)])
        assert len({id(connection.ssl_context.get()) for connection in connections}) == 1
        for connection in connections:
            await client.connection_pool.release(connection)
        assert await cache.set("a", 1) is True


async def test_replaced_certificates_are_taken_without_a_restart(serve, authority, tmp_path, monkeypatch):
    url = await serve(demands_client=True)
    certificate, key = authority.issue("replaced")
    mine, my_key = tmp_path / "mine.crt", tmp_path / "mine.key"
    mine.write_bytes(certificate.read_bytes())
    my_key.write_bytes(key.read_bytes())
    options = {"ssl_ca_certs": authority.file, "ssl_certfile": mine, "ssl_keyfile": my_key}
    async with connected(url(**options)) as client:
        kept = await client.connection_pool.get_connection()
        before = kept.ssl_context.get()
        monkeypatch.setattr(_certificates, "_READ_AGAIN_SECONDS", 0)
        mine.write_text("half written")
        assert kept.ssl_context.get() is before
        certificate, key = authority.issue("replaced")
        mine.write_bytes(certificate.read_bytes())
        my_key.write_bytes(key.read_bytes())
        assert kept.ssl_context.get() is not before
        await client.connection_pool.release(kept)
        await client.connection_pool.disconnect()
        assert await client.ping() is True


@pytest.mark.parametrize("service", ["sentinel", "cluster"])
async def test_sentinel_and_cluster_work_over_tls(service, tmp_path, authority, server_files):
    configuration = "tls-auth-clients no"
    with contextlib.ExitStack() as stack:
        if service == "cluster":
            configuration += "\ncluster-enabled yes\ntls-cluster yes"
            configuration += f"\ncluster-port {free_port()}"
        port = stack.enter_context(tls_server(tmp_path / "server", server_files, authority, configuration))
        trust = {"ssl_ca_certs": authority.file}
        if service == "cluster":
            url = f"rediss+cluster://127.0.0.1:{port}"
            with BlockingRedis(host="127.0.0.1", port=port, ssl=True, ssl_ca_certs=authority.file) as node:
                node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                until(lambda: node.cluster("info")["cluster_state"] == "ok")
        else:
            watch = f"tls-auth-clients no\nsentinel monitor main 127.0.0.1 {port} 1"
            sentinel = tls_server(tmp_path / "sentinel", server_files, authority, watch, "--sentinel")
            url = f"rediss+sentinel://127.0.0.1:{stack.enter_context(sentinel)}/main"
        async with connected(
            f"{url}?{urlencode(trust | {'ssl_min_version': int(ssl.TLSVersion.TLSv1_3)})}"
        ) as client:
            cache = SmartCache("c", policy=CachePolicy(timeout_seconds=10), client=client)
            assert await cache.set("a", 1) is True
            assert await cache.get("a") == 1
            async with RedisLock("c", ttl=5, client=client) as lock:
                assert lock.acquired
        async with connected(url) as client:
            cache = SmartCache("c", policy=CachePolicy(timeout_seconds=10), client=client)
            assert await cache.get("a", default=MISSING) is MISSING
            with pytest.raises(LockUnavailableError):
                await RedisLock("c", ttl=5, client=client).__aenter__()
        unchecked = urlencode({"ssl_cert_reqs": "none", "ssl_check_hostname": "no"})
        async with connected(f"{url}?{unchecked}") as client:
            assert await client.ping() is True


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("rediss://{at}?ssl_ca_certs=/nowhere/ca.crt", "FileNotFoundError"),
        ("rediss://{at}?ssl_ca_certs={junk}", "SSLError"),
        ("rediss://{at}?ssl_certfile={certificate}&ssl_keyfile={another}", "key values mismatch"),
        ("rediss://{at}?ssl_cert_reqs=sometimes", "RedisError"),
        ("rediss://{at}?ssl_min_version=TLSv1_3", "ValueError"),
        ("rediss://{at}?ssl_ca_cert=/ca.crt", "unknown option ssl_ca_cert"),
        ("redis://{at}?ssl_ca_certs=/ca.crt", "no TLS"),
        ("redis://{at}?ssl=true", "unknown option ssl"),
    ],
)
@pytest.mark.parametrize("at", [":secret@a:1/0", "+sentinel", "+cluster"])
def test_what_cannot_work_is_an_error_when_the_client_is_made(at, url, reason, authority, stranger, tmp_path):
    certificate, _ = authority.issue("checked")
    _, another = stranger.issue("checked")
    junk = tmp_path / "junk"
    junk.write_text("-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n")
    url = url.format(at=":secret@a:1/main", certificate=certificate, another=another, junk=junk)
    if at.startswith("+"):
        url = url.replace("://", f"{at}://")
    with pytest.raises(ConfigurationError, match=reason) as caught:
        RedisServer(url)
    assert "secret" not in str(caught.value)
