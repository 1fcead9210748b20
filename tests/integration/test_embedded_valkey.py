"""An embedded Valkey as its owner uses it."""

from __future__ import annotations

import pytest
import redis

from dotmac.database.embedded import EmbeddedValkey, ValkeyAddress


def test_socket_and_port_both_answer():
    with EmbeddedValkey(tcp=True) as server:
        for url in (server.url, server.tcp_url):
            with redis.Redis.from_url(url) as client:
                assert client.ping() is True


def test_without_a_port_there_is_no_tcp_url():
    with EmbeddedValkey() as server:
        assert server.port == 0
        with pytest.raises(ValueError, match="tcp=True"):
            _ = server.tcp_url


def test_clients_without_the_password_are_refused():
    with (
        EmbeddedValkey() as server,
        redis.Redis(unix_socket_path=str(server.address.socket_path)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_password_is_not_in_reprs():
    with EmbeddedValkey() as server:
        assert server.address.password not in repr(server) + repr(server.address)
        assert ValkeyAddress.from_json(server.address.to_json()) == server.address


def test_persistent_server_keeps_what_was_written(tmp_path):
    with EmbeddedValkey(tmp_path, tcp=True) as server, redis.Redis.from_url(server.tcp_url) as client:
        client.set("kept", "yes")
        url = server.tcp_url
        server.kill()
    with EmbeddedValkey(tmp_path, tcp=True) as server, redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"yes"
