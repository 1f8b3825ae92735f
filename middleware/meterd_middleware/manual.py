"""A call that no transport sees, metered by the app itself: `with meter.call(...) as call`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd_middleware.given import usable_counts
from meterd_middleware.readers import ModelUsage, Reading
from meterd_middleware.request import ProviderCall
from meterd_middleware.settlement import NOTHING_READ, Ending

if TYPE_CHECKING:
    from types import TracebackType

    from meterd_middleware.exchange import Exchange
    from meterd_middleware.exchanges import Exchanges
    from meterd_middleware.tags import Payer


class ManualCall:
    """One call, from reserve to settle. A context manager, sync and async; used once.

    Left without `settle`, the call is recorded as abandoned, its input estimated from what
    `meter.call` was told; left by an exception, as failed, without tokens.
    """

    def __init__(
        self,
        exchanges: Exchanges | None,
        payer: Payer,
        *,
        provider: str,
        operation: str,
        request_model: str,
        input_tokens: int,
        max_output_tokens: int | None,
        account: str,
    ) -> None:
        usable_counts({"input_tokens": input_tokens, "output_tokens": max_output_tokens or 0})
        self._exchanges = exchanges
        self._exchange: Exchange | None = None
        self._payer = payer
        self._account = account
        self._input_tokens = input_tokens
        self._call = ProviderCall(
            dialect="",
            provider=provider,
            operation=operation,
            request_model=request_model,
            is_stream=False,
            max_output_tokens=max_output_tokens,
            input_bytes=0,
            is_signed=False,
            host="",
            path="",
            refusal_shape="openai",
            chain_id="",
            poll_id="",
        )

    def __enter__(self) -> ManualCall:
        if self._exchanges is not None:
            self._take(
                self._exchanges.begin_manual(
                    self._call, self._payer, self._input_tokens, self._account
                )
            )
        return self

    async def __aenter__(self) -> ManualCall:
        if self._exchanges is not None:
            self._take(
                await self._exchanges.abegin_manual(
                    self._call, self._payer, self._input_tokens, self._account
                )
            )
        return self

    def _take(self, exchange: Exchange | None) -> None:
        if exchange is not None and exchange.refused is not None:
            raise exchange.refused
        self._exchange = exchange

    def settle(
        self,
        *,
        input_tokens: int,
        output_tokens: int,
        response_model: str = "",
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        cache_write_long_tokens: int = 0,
        reasoning_tokens: int = 0,
        audio_input_tokens: int = 0,
        audio_output_tokens: int = 0,
    ) -> None:
        """Say what the call used, as the provider reported it; the first word counts.

        Raises:
            InvalidUsage: a count can't be used; the call is still open then.
        """
        usable_counts(
            {
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
                "cache_read_tokens": cache_read_tokens,
                "cache_write_tokens": cache_write_tokens,
                "cache_write_long_tokens": cache_write_long_tokens,
                "reasoning_tokens": reasoning_tokens,
                "audio_input_tokens": audio_input_tokens,
                "audio_output_tokens": audio_output_tokens,
            }
        )
        if self._exchange is None:
            return
        usage = ModelUsage(
            response_model=response_model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache_read_tokens=cache_read_tokens,
            cache_write_tokens=cache_write_tokens,
            cache_write_long_tokens=cache_write_long_tokens,
            reasoning_tokens=reasoning_tokens,
            audio_input_tokens=audio_input_tokens,
            audio_output_tokens=audio_output_tokens,
        )
        reading = Reading(usages=(usage,), response_model=response_model, is_complete=True)
        self._exchange.settle_with(reading, Ending.TERMINAL, 200)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._exchange is None:
            return
        if isinstance(error, Exception):
            failed = Reading(error=type(error).__name__)
            self._exchange.settle_with(failed, Ending.CUT, 0)
        else:
            self._exchange.settle_with(NOTHING_READ, Ending.LEFT, 0)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)
