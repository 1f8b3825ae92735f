"""A loopback provider: real HTTP, the shapes of the real ones, and a ledger of its own.

    SDK ──HTTP/1.1──▶ server.py ─▶ asked.py (who asks for what) ─▶ shapes ─▶ bytes back
                          └──▶ ledger.py: what was served, to the token, finished or not

It counts for itself, so that a test can compare what a provider would bill with what
meterd counted. In a thread (`with Provider() as provider`) or as a process
(`python -m tests.support.provider --port 0` prints its URL; `GET /ledger` reads the ledger).

Reply length and usage follow from the request alone, so a request repeated costs the same.
What else should happen is asked for by a *wish*: `name=value` pairs, comma-separated, in the
header `X-Provider-Do`, in the body's `provider_do`, behind an `@` in the model's name, in
`Provider(do=...)` for all requests or `provider.next_do.append(...)` for one. `asked.py`
lists the wishes.
"""

from tests.support.provider.ledger import Counts, Ledger, ServedCall
from tests.support.provider.server import Provider, base_url, provider_process

__all__ = ["Counts", "Ledger", "Provider", "ServedCall", "base_url", "provider_process"]
