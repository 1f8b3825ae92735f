"""Flask, under any WSGI server; with gunicorn's prefork each worker is a producer of its own.

`gunicorn --preload --workers 2 examples.recipes.flask_app:app`. The module is imported before
the fork, and the Meter with it: nothing of it starts before a worker's first call.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import openai
from flask import Flask, abort, g, request

from meterd_middleware import Meter, instrument, refusal_of, tagged

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

ACCOUNTS = {"acme": "acme-corp", "tech": "techstartup", "bigco": "bigco-inc"}

app = Flask(__name__)
meter = Meter(service="flask-app")
client = instrument(openai.OpenAI(), meter=meter)


@app.before_request
def log_in() -> None:
    """The login, and whom the request is billed to."""
    account = ACCOUNTS.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
    if account is None:
        abort(401)
    g.billing = ExitStack()
    g.billing.enter_context(tagged(client=account, project="support-chatbot"))


@app.teardown_request
def leave(error: BaseException | None) -> None:
    """The worker's next request is somebody else's."""
    del error
    if "billing" in g:
        g.billing.close()


@app.errorhandler(openai.RateLimitError)
def over_quota(error: openai.RateLimitError) -> ResponseReturnValue:
    """Tell a client over its own quota apart from the provider's limit for the agency."""
    refused = refusal_of(error)
    if refused is None:
        return {"error": "busy, try again"}, 503
    return {"error": str(refused)}, 429


@app.post("/answer")
def answer() -> ResponseReturnValue:
    """Answer a question."""
    completion = client.chat.completions.create(
        model="gpt-5.4-mini",
        messages=[{"role": "user", "content": request.get_json()["question"]}],
    )
    return {"answer": completion.choices[0].message.content}
