"""The real thing, killed again and again: an app's workers, meterd, a provider, real SDK calls.

    load.py ─ HTTP ─▶ app.py in uvicorn's workers ─ SDKs ─▶ the loopback provider, with a ledger
    scene.py kills        └─ spool ─▶ meterd                          │
    verdict.py compares       Records ◀──── one for one ────▶ /ledger ┘

`python -m tests.delivery.torture --rounds 200` is `make torture`; test_torture.py runs a few
rounds with every suite.
"""
