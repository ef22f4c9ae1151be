"""Settings, secrets, addresses, logs, the environment and the queue."""

from __future__ import annotations

import io
import ipaddress
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from celery import Celery
from cryptography.fernet import Fernet
from django.db import IntegrityError, transaction
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from cloudops import env, logs
from cloudops.core import crypto, queue, requests, runtime
from cloudops.core.actors import system
from cloudops.core.errors import Invalid, Unavailable
from cloudops.core.models import Event, RuntimeSettings
from tests.conftest import Clock

BY = system("test")


@pytest.mark.django_db
class TestRuntimeSettings:
    def test_defaults_are_the_ones_that_were_asked_for(self) -> None:
        row = runtime.current()
        assert (row.console_cleanup_interval_seconds, row.console_retention_seconds) == (300, 7_200)
        assert (row.console_idle_warning_seconds, row.console_idle_disconnect_seconds) == (600, 900)
        assert (row.console_host_limit, row.console_redeem_seconds) == (40, 60)

    def test_a_change_is_audited_with_before_and_after(self, clock: Clock) -> None:
        runtime.change(by=BY, now=clock.now, console_host_limit=20, console_vm_limit=40)
        assert runtime.current().console_host_limit == 20
        assert Event.objects.get().data == {"changed": {"console_host_limit": [40, 20]}}
        runtime.change(by=BY, now=clock.now, console_host_limit=20)
        assert Event.objects.count() == 1

    @pytest.mark.parametrize(
        "values",
        [
            {"console_host_limit": 0},
            {"console_cleanup_interval_seconds": 9},
            {"console_idle_warning_seconds": 900},
            {"console_host_limit": "many"},
            {"no_such_setting": 1},
            {"id": 2},
        ],
    )
    def test_what_is_wrong_changes_nothing(self, clock: Clock, values: dict[str, object]) -> None:
        before = runtime.current()
        with pytest.raises(Invalid) as refusal:
            runtime.change(by=BY, now=clock.now, audit_retention_days=1, **values)
        assert refusal.value.numbers["fields"]
        assert runtime.current().audit_retention_days == before.audit_retention_days
        assert not Event.objects.exists()

    def test_the_database_keeps_one_row_in_order(self) -> None:
        runtime.current()
        with pytest.raises(IntegrityError), transaction.atomic():
            RuntimeSettings.objects.create(pk=2)
        with pytest.raises(IntegrityError), transaction.atomic():
            RuntimeSettings.objects.update(console_idle_disconnect_seconds=600)


class TestCrypto:
    def test_keys_rotate(self, settings: Settings) -> None:
        old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
        try:
            settings.ENCRYPTION_KEYS = [old]
            crypto._fernet.cache_clear()
            cipher = crypto.encrypt("pässword")
            assert "ssword" not in cipher
            settings.ENCRYPTION_KEYS = [new, old]
            crypto._fernet.cache_clear()
            assert crypto.decrypt(cipher) == "pässword"
            fresh = crypto.encrypt("pässword")
            settings.ENCRYPTION_KEYS = [new]
            crypto._fernet.cache_clear()
            assert crypto.decrypt(fresh) == "pässword"
            with pytest.raises(Unavailable, match="cannot be decrypted") as refusal:
                crypto.decrypt(cipher)
            assert "CLOUDOPS_ENCRYPTION_KEYS" in refusal.value.remedy_text
        finally:
            crypto._fernet.cache_clear()

    def test_empty_stays_empty_and_secrets_differ(self) -> None:
        assert crypto.encrypt("") == crypto.decrypt("") == ""
        secrets = {crypto.new_secret() for _ in range(100)}
        assert len(secrets) == 100
        assert min(map(len, secrets)) >= 43  # 256 bits
        assert crypto.digest("a") != crypto.digest("b")


class TestClientAddress:
    @pytest.fixture(autouse=True)
    def _proxies(self, settings: Settings) -> None:
        settings.TRUSTED_PROXIES = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]

    @pytest.mark.parametrize(
        ("peer", "forwarded", "expected"),
        [
            ("203.0.113.5", "", "203.0.113.5"),
            ("203.0.113.5", "198.51.100.1", "203.0.113.5"),
            ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.9.9.9", "198.51.100.1"),
            ("fd00::1", "2001:db8::7", "2001:db8::7"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.2", "10.0.0.2"),
            ("", "198.51.100.1", ""),
            ("10.0.0.1", " , ,", "10.0.0.1"),
            ("10.0.0.1", "x" * 500, "x" * 64),
        ],
    )
    def test_only_trusted_proxies_are_believed(self, peer: str, forwarded: str, expected: str) -> None:
        assert requests.client_address(peer, forwarded) == expected
        headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
        assert requests.address_of_scope({"client": (peer, 1), "headers": headers}) == expected

    @given(st.text(alphabet="0123456789.,: abcdef", max_size=80))
    def test_what_an_untrusted_peer_says_never_counts(self, forwarded: str) -> None:
        assert requests.client_address("203.0.113.5", forwarded) == "203.0.113.5"


class TestLogs:
    SECRET = "Zm9vYmFy-0123456789_secretvalue"

    def hidden(self, **event: Any) -> str:
        return json.dumps(logs.hide_secrets(None, "info", event))

    @pytest.mark.parametrize(
        "event",
        [
            {"password": SECRET},
            {"api_token": SECRET},
            {"Authorization": SECRET},
            {"session_cookie": SECRET},
            {"header": f"binary, cloudops.secret.{SECRET}"},
            {"header": f"cloudops.resume.{SECRET}, binary"},
            {"text": f"Authorization: Bearer {SECRET} was sent"},
        ],
    )
    def test_secrets_are_cut_out(self, event: dict[str, str]) -> None:
        told = self.hidden(**event)
        assert self.SECRET not in told
        assert "[hidden]" in told

    def test_what_is_no_secret_stays(self) -> None:
        assert (
            self.hidden(event="request", path="/vms/", status=200)
            == '{"event": "request", "path": "/vms/", "status": 200}'
        )

    @pytest.mark.parametrize("library", [False, True])
    def test_both_loggers_hide_them(self, library: bool) -> None:
        stream = io.StringIO()
        root = logging.getLogger()
        [formatter] = [
            handler.formatter
            for handler in root.handlers
            if isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter)
        ][:1]
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        root.addHandler(handler)
        try:
            if library:
                logging.getLogger("websockets").warning("offered %s", f"cloudops.secret.{self.SECRET}")
            else:
                structlog.get_logger("x").warning(
                    "offered", protocol=f"cloudops.secret.{self.SECRET}", password=self.SECRET
                )
        finally:
            root.removeHandler(handler)
        assert "offered" in stream.getvalue()
        assert self.SECRET not in stream.getvalue()


class TestEnvironment:
    def test_a_value_that_cannot_be_understood_says_how_to_mend_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(env, "VARIABLES", {})
        monkeypatch.setenv("CLOUDOPS_X", "perhaps")
        reads: list[tuple[Callable[[], object], str]] = [
            (lambda: env.env_int("CLOUDOPS_X", 5, "h"), "whole number, for example 5"),
            (lambda: env.env_bool("CLOUDOPS_X", True, "h"), "true or false"),
            (lambda: env.env_str("CLOUDOPS_X", "a", "h", choices=("a", "b")), "one of: a, b"),
        ]
        for read, example in reads:
            with pytest.raises(env.MisconfiguredError, match=example) as error:
                read()
            assert "CLOUDOPS_X" in str(error.value)

    def test_values_are_read_and_documented(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(env, "VARIABLES", {})
        monkeypatch.setenv("CLOUDOPS_LIST", " a, b ,,c")
        monkeypatch.setenv("CLOUDOPS_ON", "Yes")
        assert env.env_list("CLOUDOPS_LIST", "", "h") == ["a", "b", "c"]
        assert env.env_bool("CLOUDOPS_ON", False, "h") is True
        assert env.env_int("CLOUDOPS_N", 3, "how many") == 3
        assert env.VARIABLES["CLOUDOPS_N"] == env.Variable("CLOUDOPS_N", "integer", "3", "how many")

    def test_a_secret_may_come_from_a_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(env, "VARIABLES", {})
        (tmp_path / "key").write_text("from the file\n")
        monkeypatch.setenv("CLOUDOPS_S_FILE", str(tmp_path / "key"))
        assert env.env_secret("CLOUDOPS_S", "h") == "from the file"
        monkeypatch.setenv("CLOUDOPS_S", "itself")
        assert env.env_secret("CLOUDOPS_S", "h") == "itself"
        monkeypatch.delenv("CLOUDOPS_S")
        monkeypatch.setenv("CLOUDOPS_S_FILE", str(tmp_path / "none"))
        with pytest.raises(env.MisconfiguredError, match="cannot be read"):
            env.env_secret("CLOUDOPS_S", "h")

    def test_databases(self) -> None:
        sqlite = env.database_config("sqlite:////var/lib/x.sqlite3")
        assert (sqlite["ENGINE"], sqlite["NAME"]) == ("django.db.backends.sqlite3", "/var/lib/x.sqlite3")
        postgres = env.database_config("postgresql://me:p%40ss@db.example.org:5433/name")
        wanted = {"NAME": "name", "USER": "me", "PASSWORD": "p@ss", "HOST": "db.example.org", "PORT": "5433"}
        assert {key: postgres[key] for key in wanted} == wanted
        assert env.database_config("postgresql://me@%2Fvar%2Frun/name")["HOST"] == "/var/run"
        with pytest.raises(env.MisconfiguredError, match="Use sqlite"):
            env.database_config("mysql://x/y")


class TestQueue:
    def test_a_dead_broker_is_an_answer_not_an_exception(self, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = Celery("broken", broker="redis://127.0.0.1:1/0", set_as_current=False)
        monkeypatch.setattr(queue, "current_app", broken)
        assert queue.enqueue("some.task", "1") is False
