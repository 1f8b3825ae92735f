"""`meterctl quota`: what each client may use, has used, and has left, and where it is heading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.cli.client import connected
from meterd.cli.console import DONE, CommandRefused, DaemonUnavailable, WrongValue
from meterd.cli.figures import moment, short_tokens, timestamp, tokens
from meterd.cli.forecast import cap_reached_on, exhausted_on
from meterd.cli.options import add_connection, add_format, identifier
from meterd.cli.output import json_line, write_csv, write_json
from meterd.cli.progress import Progress
from meterd.cli.table import Column, render
from meterd_proto.v1 import quota_pb2, quota_pb2_grpc

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from meterd.cli.client import Daemon
    from meterd.cli.console import Console

EXAMPLE = "meterctl quota acme-corp --watch"

_MODES = {
    quota_pb2.LIMIT_MODE_NONE: "none",
    quota_pb2.LIMIT_MODE_SOFT: "soft",
    quota_pb2.LIMIT_MODE_HARD: "hard",
}
_COLUMNS = (
    *("client", "period", "limit", "used", "leased", "remaining", "mode", "plan", "cap"),
    *("estimated_tokens", "scope", "project", "model", "start", "end", "timezone", "forecast"),
)
_CLEAR_SCREEN = "\x1b[H\x1b[2J"
_INTERVAL_MAX_S = 3600.0
_HOLDERS_MAX = 3
"""Holders that a table names of each quota; JSON has them all."""
_GRANTS_MAX = 3
"""The same for grants."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl quota`."""
    parser.add_argument(
        "client", nargs="?", type=identifier("CLIENT"), metavar="CLIENT",
        help="this client alone (default: all that have a quota)",
    )  # fmt: skip
    parser.add_argument(
        "--watch", action="store_true", help="ask again and again, until Ctrl-C"
    )  # fmt: skip
    parser.add_argument(
        "--interval", type=_interval, default=2.0, metavar="SECONDS",
        help="how long --watch pauses in between (default: 2)",
    )  # fmt: skip
    add_format(parser)
    add_connection(parser)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= _INTERVAL_MAX_S:
        raise WrongValue("--interval", text, f"seconds, more than 0 and at most {_INTERVAL_MAX_S}")
    return seconds


def run(options: argparse.Namespace, console: Console) -> int:
    """Ask for the quotas and write them; with `--watch` until interrupted."""
    with connected(options.target, console) as daemon:
        _write(_ask(daemon, options.client or "", console), options, console)
        if options.watch:
            _say_when(options, console)
        while options.watch:
            console.out.flush()
            console.wait(options.interval)
            _show_again(daemon, options, console)
    return DONE


def _show_again(daemon: Daemon, options: argparse.Namespace, console: Console) -> None:
    """Once more; a daemon that is being restarted is waited for, the old figures stay."""
    try:
        quotas = _ask(daemon, options.client or "", console)
    except DaemonUnavailable as error:
        console.remark(f"meterctl quota: {error}; trying again")
        return
    if console.is_terminal and options.format == "table":
        console.out.write(_CLEAR_SCREEN)
    _write(quotas, options, console)
    _say_when(options, console)


def _say_when(options: argparse.Namespace, console: Console) -> None:
    """A screen that is watched says from when its figures are."""
    if console.is_terminal and options.format == "table":
        now = moment(console.now_unix_ns())
        console.print(f"\n{now}, every {options.interval:g} s; Ctrl-C ends it")


def _ask(daemon: Daemon, client: str, console: Console) -> list[quota_pb2.QuotaStatus]:
    stub = quota_pb2_grpc.QuotaServiceStub(daemon.channel)
    with Progress(console, "reading"):
        answer = daemon.ask(stub.Status, quota_pb2.QuotaStatusRequest(client=client))
    if client and not answer.quotas:
        raise CommandRefused(
            f"{client} has no quota: no plan limits it, or the ledger has never seen it"
        )
    return list(answer.quotas)


def _write(
    quotas: list[quota_pb2.QuotaStatus], options: argparse.Namespace, console: Console
) -> None:
    now = console.now_unix_ns()
    if options.format == "csv":
        write_csv(console.out, _COLUMNS, (_document(quota, now) for quota in quotas))
    elif options.format == "json":
        document = {
            "schema": "meterd.quota/1",
            "quotas": [
                {**_document(quota, now), "holders": _holders(quota), "granted": _grants(quota)}
                for quota in quotas
            ],
        }
        if options.watch:
            console.print(json_line(document))
        else:
            write_json(console.out, document)
    else:
        for line in _table(quotas, now, console.width):
            console.print(line)


def _table(quotas: list[quota_pb2.QuotaStatus], now: int, width: int | None) -> list[str]:
    if not quotas:
        return ["No client has a quota: give one a plan in meterd.toml, then `meterctl apply`."]
    has_scopes = any(quota.project or quota.model or _is_agency(quota) for quota in quotas)
    columns = [Column("CLIENT")] + ([Column("OF")] if has_scopes else [])
    columns += [Column("PERIOD"), Column("MODE")]
    columns += [Column(title, is_figure=True) for title in ("LIMIT", "USED", "LEASED", "REMAINING")]
    rows = []
    for quota in quotas:
        scope = [_scope(quota)] if has_scopes else []
        rows.append([_owner(quota), *scope, quota.period, _mode(quota), *_figures(quota)])
    remarks = [remark for quota in quotas for remark in _remarks(quota, now)]
    return [*render(columns, rows, width), *([""] if remarks else []), *remarks]


def _figures(quota: quota_pb2.QuotaStatus) -> list[str]:
    if quota.is_unlimited:
        return ["-", tokens(quota.used), tokens(quota.leased), "-"]
    return [tokens(n) for n in (quota.limit, quota.used, quota.leased, quota.remaining)]


def _remarks(quota: quota_pb2.QuotaStatus, now: int) -> list[str]:
    """Who holds what is lent, and when the tokens will be gone at this pace."""
    name = _owner(quota) + (f" ({_scope(quota)})" if quota.project or quota.model else "")
    remarks = [*_lent_to(quota.holders), *_given(quota.granted), _outlook(quota, now)]
    return [f"{name}: {remark}." for remark in remarks if remark]


def _lent_to(holders: Sequence[quota_pb2.Holder]) -> list[str]:
    """The largest holders, and first of all who is gone with what it holds."""
    by_worth = sorted(holders, key=lambda holder: (not holder.is_gone, -holder.tokens))
    remarks = [
        f"{short_tokens(holder.tokens)} lent to {holder.producer} (pid {holder.pid}"
        f"{', not connected' if holder.is_gone else ''}) until {moment(holder.until_unix_ns)}"
        for holder in by_worth[:_HOLDERS_MAX]
    ]
    return remarks + _and_more("lent to", by_worth[_HOLDERS_MAX:])


def _given(grants: Sequence[quota_pb2.Granted]) -> list[str]:
    """What the limit was raised by, by whom and why; the newest first."""
    newest = list(reversed(grants))
    remarks = [
        f"{short_tokens(grant.tokens)} granted on {moment(grant.at_unix_ns)} by {grant.who}: "
        f"{grant.why}"
        for grant in newest[:_GRANTS_MAX]
    ]
    return remarks + _and_more("granted in", newest[_GRANTS_MAX:])


def _and_more(what: str, others: Sequence[quota_pb2.Holder | quota_pb2.Granted]) -> list[str]:
    """A remark on those that aren't named; none where all are."""
    if not others:
        return []
    return [f"{short_tokens(sum(other.tokens for other in others))} {what} {len(others)} more"]


def _outlook(quota: quota_pb2.QuotaStatus, now: int) -> str:
    """What is to be expected of a quota; empty where nothing is."""
    if quota.is_unlimited:
        return f"nothing limits it (plan {quota.plan})" if quota.plan else "no plan limits it"
    over = quota.used - quota.limit
    if over <= 0 or not quota.limit:
        return exhausted_on(quota, now)
    if quota.mode != quota_pb2.LIMIT_MODE_SOFT:
        return f"exhausted, and {short_tokens(over)} over"
    if not quota.cap:
        return f"{short_tokens(over)} in overage"
    at = cap_reached_on(quota, now)
    return f"{short_tokens(over)} in overage, of a cap of {short_tokens(quota.cap)}" + (
        f": {at}" if at else ""
    )


def _is_agency(quota: quota_pb2.QuotaStatus) -> bool:
    return quota.scope == "agency"


def _owner(quota: quota_pb2.QuotaStatus) -> str:
    return "(agency)" if _is_agency(quota) else quota.client


def _scope(quota: quota_pb2.QuotaStatus) -> str:
    parts = [f"project {quota.project}"] if quota.project else []
    parts += [f"model {quota.model}"] if quota.model else []
    return ", ".join(parts) or "all"


def _mode(quota: quota_pb2.QuotaStatus) -> str:
    return "none" if quota.is_unlimited else _MODES.get(quota.mode, "unknown")


def _document(quota: quota_pb2.QuotaStatus, now: int) -> dict[str, object]:
    return {
        "client": quota.client,
        "period": quota.period,
        "limit": None if quota.is_unlimited else quota.limit,
        "used": quota.used,
        "leased": quota.leased,
        "remaining": None if quota.is_unlimited else quota.remaining,
        "mode": _mode(quota),
        "plan": quota.plan,
        "cap": quota.cap or None,
        "estimated_tokens": quota.estimated_tokens,
        "scope": quota.scope,
        "project": quota.project,
        "model": quota.model,
        "start": timestamp(quota.period_start_unix_ns),
        "end": timestamp(quota.period_end_unix_ns),
        "timezone": quota.timezone,
        "forecast": exhausted_on(quota, now),
    }


def _holders(quota: quota_pb2.QuotaStatus) -> list[dict[str, object]]:
    return [
        {
            "producer": holder.producer,
            "pid": holder.pid,
            "tokens": holder.tokens,
            "until": timestamp(holder.until_unix_ns),
            "connected": not holder.is_gone,
        }
        for holder in quota.holders
    ]


def _grants(quota: quota_pb2.QuotaStatus) -> list[dict[str, object]]:
    return [
        {
            "tokens": grant.tokens,
            "why": grant.why,
            "who": grant.who,
            "at": timestamp(grant.at_unix_ns),
        }
        for grant in quota.granted
    ]
