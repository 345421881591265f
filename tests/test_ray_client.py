"""What a client does before it joins a cluster: it shows its token, and sees whether anybody answers."""

import os
import socket
from types import SimpleNamespace

import pytest

from clray import ray_client
from clray.errors import ResourceError


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """A process that has no token yet, and has not imported Ray."""
    for name in (ray_client.MODE, ray_client.TOKEN, ray_client.TOKEN_PATH):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray_client, "sys", SimpleNamespace(modules={}))
    return tmp_path


def mode_after_offer():
    ray_client.offer_token()
    return os.environ.get(ray_client.MODE)


def test_without_a_token_nothing_is_switched_on(alone, monkeypatch):
    assert mode_after_offer() is None
    monkeypatch.setenv(ray_client.TOKEN_PATH, str(alone / "none"))
    assert mode_after_offer() is None


def test_a_token_is_shown_wherever_ray_looks_for_one(alone, monkeypatch):
    monkeypatch.setenv(ray_client.TOKEN, "t")
    assert mode_after_offer() == "token"
    monkeypatch.delenv(ray_client.TOKEN)
    monkeypatch.delenv(ray_client.MODE)
    (alone / ".ray").mkdir()
    (alone / ".ray" / "auth_token").write_text("t")
    assert mode_after_offer() == "token"
    monkeypatch.delenv(ray_client.MODE)
    (alone / "elsewhere").write_text("t")
    monkeypatch.setenv(ray_client.TOKEN_PATH, str(alone / "elsewhere"))
    assert mode_after_offer() == "token"


def test_a_mode_that_is_set_stays(alone, monkeypatch):
    monkeypatch.setenv(ray_client.TOKEN, "t")
    monkeypatch.setenv(ray_client.MODE, "disabled")
    assert mode_after_offer() == "disabled"


def test_an_address_that_nobody_answers_at_is_refused_at_once(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        ray_client.check_address()
    with pytest.raises(ResourceError, match=r"no Ray cluster answers at RAY_ADDRESS=127.0.0.1:\d+: .*HEAD:6379"):
        ray_client.check_address()


@pytest.mark.parametrize("address", ["", "auto", "local", "ray://head:10001"])
def test_other_addresses_are_rays_own_business(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    ray_client.check_address()
