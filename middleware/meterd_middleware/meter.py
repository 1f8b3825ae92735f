"""Meter: what an app makes once; owns spool, shipper and leases.

    app ─▶ Meter ─┬─ exchanges   every call through an instrumented client
                  ├─ record      usage that the app counted itself, anywhere
                  ├─ call        one call that no transport sees, from reserve to settle
                  └─ check       the quota decision alone

Making one costs nothing: no thread, no spool and no channel before the first record (with the
extra `tiktoken` it imports `regex`, 10 ms). One Meter per process is enough; a forked child
carries on as a new producer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from meterd_middleware.errors import InvalidSetting, InvalidUsage, Untagged
from meterd_middleware.exchanges import Exchanges
from meterd_middleware.given import given_record, usable_id
from meterd_middleware.manual import ManualCall
from meterd_middleware.refusal import QuotaExceeded
from meterd_middleware.settings import Settings
from meterd_middleware.tags import Tags, who_pays, why_invalid

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from decimal import Decimal
    from types import TracebackType

    from meterd_middleware.ports import Quota, Sink
    from meterd_middleware.usage import UsageRecord

CLOSE_TIMEOUT_S = 5.0


class Meter:
    """Counts the LLM calls of one process and hands them to meterd.

    Args:
        target: `unix:PATH` or `HOST:PORT` of meterd; `METERD_TARGET`, else the default sockets.
        spool: where records wait on disk; `METERD_SPOOL`, else the default directories.
        service: the app's name, as operators see it; `METERD_SERVICE`, else the script's.
        access_key: for meterd over TCP; `METERD_ACCESS_KEY` or `METERD_ACCESS_KEY_FILE`.
        client: whom calls are billed to that name no client.
        on_unreachable: "allow" or "reject" calls while meterd is away and the client's plan
            isn't known yet.
        on_untagged: "record" calls without a client as `unattributed`, or "refuse" them.
        on_record: called with each finished record; what it raises is logged and counted.
        include_usage: whether chat streams are made to report their usage, invisibly to the
            app; `METERD_INCLUDE_USAGE`.
        include_usage_hosts: further hosts that accept `stream_options.include_usage`.

    Raises:
        InvalidSetting: a value can't be used.
    """

    exchanges: Exchanges

    def __init__(
        self,
        *,
        target: str | None = None,
        spool: str | os.PathLike[str] | None = None,
        service: str | None = None,
        access_key: str | None = None,
        client: str | None = None,
        on_unreachable: str | None = None,
        on_untagged: str | None = None,
        on_record: Callable[[UsageRecord], object] | None = None,
        include_usage: bool | None = None,
        include_usage_hosts: tuple[str, ...] | None = None,
    ) -> None:
        settings = Settings.load(
            target=target,
            spool=spool,
            service=service,
            access_key=access_key,
            client=client,
            on_unreachable=on_unreachable,
            on_untagged=on_untagged,
            include_usage=include_usage,
            include_usage_hosts=include_usage_hosts,
        )
        self._build(settings, on_record)

    def _build(self, settings: Settings, on_record: Callable[[UsageRecord], object] | None) -> None:
        from meterd_middleware.leases import Leases
        from meterd_middleware.shipper import Shipper

        leases = Leases(
            settings,
            now_ns=time.time_ns,
            monotonic_ns=time.monotonic_ns,
            wake=lambda: shipper.wake(),
        )
        shipper = Shipper(settings, leases)
        self._join(settings, shipper, leases, on_record)
        if settings.tiktoken and not settings.disabled:
            self.exchanges.count_exactly()

    def _join(
        self,
        settings: Settings,
        shipper: Sink,
        leases: Quota,
        on_record: Callable[[UsageRecord], object] | None,
    ) -> None:
        if settings.client and (wrong := why_invalid(settings.client)):
            raise InvalidSetting("client", settings.client, f"a client id; this one {wrong}")
        self.settings = settings
        self.is_disabled = settings.disabled
        self._shipper = shipper
        self._leases = leases
        self.exchanges = Exchanges(settings, shipper, leases, on_record=on_record)

    def record(
        self,
        *,
        client: str,
        request_model: str,
        provider: str = "",
        project: str | None = None,
        operation: str = "chat",
        response_model: str = "",
        input_tokens: int = 0,
        output_tokens: int = 0,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        cache_write_long_tokens: int = 0,
        reasoning_tokens: int = 0,
        audio_input_tokens: int = 0,
        audio_output_tokens: int = 0,
        price_context: Mapping[str, str] | None = None,
        tool_calls: Mapping[str, int] | None = None,
        provider_cost: Decimal | None = None,
        account: str = "",
        occurred_at: datetime | None = None,
        dedupe_id: str | None = None,
        is_estimated: bool = False,
        note: str = "",
    ) -> None:
        """Count usage that no instrumented client saw: a batch's result, another language's call.

        Args:
            input_tokens, output_tokens: wholes; cached, reasoning and audio tokens are parts
                of them.
            occurred_at: when the call was made, aware; now by default. It decides day, period
                and price.
            dedupe_id: the same id is counted once, within 35 days, whichever process sends it.

        Raises:
            InvalidUsage: a value can't be counted; names field, value and what was expected.
        """
        record = given_record(
            client=client,
            project=project or "",
            provider=provider,
            operation=operation,
            request_model=request_model,
            response_model=response_model,
            counts={
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
                "cache_read_tokens": cache_read_tokens,
                "cache_write_tokens": cache_write_tokens,
                "cache_write_long_tokens": cache_write_long_tokens,
                "reasoning_tokens": reasoning_tokens,
                "audio_input_tokens": audio_input_tokens,
                "audio_output_tokens": audio_output_tokens,
            },
            price_context=price_context,
            tool_calls=tool_calls,
            provider_cost=provider_cost,
            account=account,
            occurred_at=occurred_at,
            dedupe_id=dedupe_id or "",
            is_estimated=is_estimated,
            note=note,
            now_ns=self.exchanges.now_ns(),
        )
        if not self.is_disabled:
            self.exchanges.append(record)

    def call(
        self,
        *,
        client: str | None = None,
        project: str | None = None,
        provider: str = "",
        operation: str = "chat",
        request_model: str = "",
        input_tokens: int = 0,
        max_tokens: int | None = None,
        account: str = "",
    ) -> ManualCall:
        """Meter one call that no transport sees, as `with meter.call(...) as call: ...`.

        Reserves on entry and writes the record on exit; `call.settle(...)` says what was used.
        Also `async with`.

        Args:
            client, project: who pays; by default the tags in force here.
            input_tokens: an estimate of the prompt, for the reservation and for a call that
                is never settled.
            max_tokens: the longest reply that may come, for the reservation.

        Raises:
            QuotaExceeded: on entry, where the quota does not cover the call.
            InvalidUsage: an id or a count can't be used.
        """
        if client is not None:
            usable_id("client", client)
        if project:
            usable_id("project", project)
        payer = who_pays(
            (client,) if client else (), (project,) if project else (), self.settings.client
        )
        return ManualCall(
            None if self.is_disabled else self.exchanges,
            payer,
            provider=provider,
            operation=operation,
            request_model=request_model,
            input_tokens=input_tokens,
            max_output_tokens=max_tokens,
            account=account,
        )

    def check(
        self,
        *,
        client: str | None = None,
        project: str | None = None,
        request_model: str = "",
        tokens: int = 1,
    ) -> None:
        """The quota decision alone: returns where a call of `tokens` may start.

        Args:
            client, project: whose quota; by default the tags in force here.
            request_model: where a quota stands on a model.

        Raises:
            QuotaExceeded: the call would be refused.
            InvalidUsage: an id can't be used, or `tokens` is no whole number above zero.
            Untagged: no client is named, and this meter refuses such calls.
        """
        if self.is_disabled:
            return
        tags = self._whose(client, project, tokens)
        try:
            denied = self._leases.check(tags.client, tags.project, request_model, tokens)
        except Exception as error:
            self.exchanges.faults.note("check", error)
            return
        if denied is not None:
            raise QuotaExceeded(denied)

    async def acheck(
        self,
        *,
        client: str | None = None,
        project: str | None = None,
        request_model: str = "",
        tokens: int = 1,
    ) -> None:
        """`check`, to await: the first decision of a client waits for meterd without blocking."""
        if self.is_disabled:
            return
        tags = self._whose(client, project, tokens)
        try:
            denied = await self._leases.acheck(tags.client, tags.project, request_model, tokens)
        except Exception as error:
            self.exchanges.faults.note("check", error)
            return
        if denied is not None:
            raise QuotaExceeded(denied)

    def _whose(self, client: str | None, project: str | None, tokens: int) -> Tags:
        if client is not None:
            usable_id("client", client)
        if type(tokens) is not int or tokens < 1:
            raise InvalidUsage("tokens", tokens, "a whole number above zero")
        payer = who_pays(
            (client,) if client else (), (project,) if project else (), self.settings.client
        )
        if not payer.is_named and self.settings.on_untagged == "refuse":
            raise Untagged("check() names no client, and this meter refuses such calls")
        return payer.tags

    def flush(self, timeout: float = 5) -> bool:
        """Whether everything counted so far is durable in meterd within `timeout` seconds."""
        if self.is_disabled:
            return True
        self.exchanges.catch_up()
        try:
            started = time.monotonic()
            if not self.exchanges.drain(timeout):
                return False
            return self._shipper.flush(max(0.0, timeout - (time.monotonic() - started)))
        except Exception as error:
            self.exchanges.faults.note("flush", error)
            return False

    def close(self, timeout: float = CLOSE_TIMEOUT_S) -> None:
        """Hand over what is left within `timeout` seconds; what isn't stays on disk. Repeatable."""
        if self.is_disabled:
            return
        self.exchanges.catch_up()
        try:
            started = time.monotonic()
            self.exchanges.drain(timeout / 2)
            self._shipper.close(max(0.0, timeout - (time.monotonic() - started)))
        except Exception as error:
            self.exchanges.faults.note("close", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
