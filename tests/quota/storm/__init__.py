"""The quota under fire: real SDK calls of several processes on one client, kill -9 all the while.

    __main__ ─▶ run.py ─ kills ─▶ crew.py ─ a line a worker ─▶ worker.py, forked once it is warm
                   └─ kills ─▶ meterd                             └─ 3 SDKs ─▶ the provider
    verdict.py: tokens that the provider served ═ the quota and the bound of its `reserve` mode

`python -m tests.quota.storm --rounds 4` is `make quota-storm`; test_storm.py is a short one.
"""
